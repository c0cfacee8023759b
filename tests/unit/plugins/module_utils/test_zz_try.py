import sys
def test_full(world):
    from ansible_collections.edgelab.model_trial.plugins.module_utils import program, runner
    import json
    out = program.open_trial(world.state, world.plan.run, "me")
    world.state.advance("measure")
    import time
    t=time.time()
    rc = program.run(world.state)
    print("rc", rc, time.time()-t)
    t=time.time()
    rc = program.restore_now(world.state)
    print("rc", rc, time.time()-t, world.clock.now)
    for e in world.events(): print(e["by"], round(e["t_s"],2), e["event"], {k:v for k,v in e.items() if k not in("by","t_s","event","run","epoch","wall","boot_id","seq","checks")})
    print(world.log)
    assert 0
