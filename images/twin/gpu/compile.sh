#!/bin/sh
# Compile the fake NVML library and nvidia-smi into the folder $1, wherever there is a gcc: on the machine that builds a
# twin, or inside its image.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1
mkdir -p "$target"
compile() {
    program=$1
    source=$2
    shift 2
    gcc -O2 -Wall -Wextra -Werror -o "$target/$program.part" "$source" "$@"
    mv "$target/$program.part" "$target/$program"
}
compile libnvidia-ml.so.1 "$here/nvml.c" -shared -fPIC -fvisibility=hidden -Wl,-soname,libnvidia-ml.so.1
compile nvidia-smi "$here/nvidia-smi.c" -ldl
