"""Artifacts that the ladder compares with the judged file: the same model made another way, or one step earlier.

Nothing here says which step is guilty; it makes the neighbors and says how far apart two of them are.
"""

from __future__ import annotations

from pathlib import Path

from trialbench.errors import TrialbenchError
from trialbench.ground_truth.evidence.observe import Evidence, Seen
from trialbench.ground_truth.model.roster import Model
from trialbench.ground_truth.runtimes.base import Artifact, Capability
from trialbench.ground_truth.suites.files import distance


class Neighbors:
    """The neighbors of a model's files. Each is made once, in its own folder; a string says why there is none."""

    def __init__(self, evidence: Evidence, model: Model) -> None:
        self._evidence, self._model = evidence, model
        runtime = evidence.runtime.identity.name
        self._folder = evidence.workspace.record(model, runtime, "f32").parent / "ladder"
        self._made: dict[tuple[str, Path], Artifact | str] = {}
        self._said: dict[Path, Seen] = {}

    def imported(self) -> Artifact | str:
        """The float file, imported from the Hugging Face files."""
        source = self._evidence.workspace.source(self._model)
        return self._make(Capability.IMPORT_HF, source, "from-hf", "f32")

    def imported_from_gguf(self) -> Artifact | str:
        """The float file, imported from a GGUF that we made: another way through the runtime's importer."""
        from trialbench.ground_truth.model.convert import to_gguf

        gguf = self._folder / "ours.gguf"
        try:
            to_gguf(self._evidence.workspace.folder(self._model), gguf, "f32", name=self._model.slug)
        except (TrialbenchError, OSError) as error:
            return str(error)
        ours = Artifact(gguf, self._model.slug, "gguf", "f32", parents=("hf", "gguf f32"))
        return self._make(Capability.IMPORT_GGUF, ours, "from-gguf", "f32")

    def exported(self, artifact: Artifact) -> Artifact | str:
        """A file of the runtime's own format as a GGUF, which can be read; a GGUF is one already."""
        if artifact.format == "gguf":
            return artifact
        return self._make(Capability.EXPORT, artifact, f"{artifact.path.stem}-exported", artifact.quant)

    def back(self, artifact: Artifact) -> Artifact | str:
        """A file after export and import: the same numbers, as floats."""
        out = self.exported(artifact)
        if isinstance(out, str):
            return out
        return self._make(Capability.IMPORT_GGUF, out, f"{artifact.path.stem}-back", artifact.quant)

    def _make(self, capability: Capability, source: Artifact, name: str, quant: str) -> Artifact | str:
        key = (capability.value, source.path)
        if key not in self._made:
            evidence = self._evidence
            why = evidence.runtime.declined(capability)
            ending = evidence.workspace.path(self._model, evidence.runtime.identity.name, quant).suffix
            if why is None:
                done = evidence.runtime.convert(capability, source, self._folder / f"{name}{ending}", quant)
                why = done.trouble.text if done.trouble else "nothing was made"
                self._made[key] = why if done.artifact is None else done.artifact
            else:
                self._made[key] = why
        return self._made[key]

    def said(self, artifact: Artifact) -> Seen:
        """What a neighbor continues, asked once."""
        if artifact.path not in self._said:
            key = (self._model.slug, artifact.quant)
            again = Evidence(self._evidence.workspace, self._evidence.runtime, replaced={key: artifact})
            self._said[artifact.path] = again.seen(self._model, artifact.quant)
        return self._said[artifact.path]

    def apart(self, judged: Artifact | str, reference: Artifact | Path | str, bound: float) -> tuple[bool | None, str]:
        """Whether two readable files have the same tensors within a relative error; None where they do not compare."""
        if isinstance(judged, str) or isinstance(reference, str):
            return None, str(judged if isinstance(judged, str) else reference)
        other = reference if isinstance(reference, Path) else reference.path
        found = distance(judged.path, other)
        if found is None:
            return None, f"{judged.path.name} and {other.name} cannot both be read tensor by tensor"
        good = not (found["unpaired"] or found["not_finite"]) and found["relative"] <= bound
        says = (
            f"{found['compared']} tensors, the worst {found['worst']} off by {found['relative']:.2g}, {bound:g} allowed"
        )
        if found["unpaired"]:
            says += f"; {len(found['unpaired'])} do not compare: {', '.join(found['unpaired'][:3])}"
        return good, says + "".join(f"; {hint}" for hint in found["hints"])


def other_numbers(file: Path, folder: Path) -> list[str]:
    """Where the metadata of a GGUF depart from a Hugging Face configuration in what decides a continuation.

    Raises:
        UsageError: one of them cannot be read.
    """
    from trialbench.ground_truth.model.origin import departures, ends_elsewhere
    from trialbench.ground_truth.model.weights import Gguf, understood

    found = Gguf(file)
    with understood(folder):
        return [*departures(found, folder), *ends_elsewhere(found, folder)]
