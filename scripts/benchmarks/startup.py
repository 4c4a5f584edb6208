"""The time that a start takes, each number in a process of its own.

    import    `import clfunc`
    eager     from the start of the process to the end of the first step, in eager mode
    cold      the same with a compiled step and an empty compile cache
    warm      the same again, with the compile cache that `cold` fills

The data are small, so that drawing them takes no time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 16  # of the hat case


def startup() -> dict[str, float]:
    """Seconds of each."""
    with tempfile.TemporaryDirectory() as cache:
        eager = _child("eager", cache)
        found = {"import_seconds": eager["import"], "eager_seconds": eager["total"]}
        return found | {
            f"{name}_seconds": _child("compile", cache)["total"] for name in ("cold", "warm")
        }


def _child(engine: str, cache: str) -> dict[str, float]:
    environment = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.startup", engine]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"total": time.perf_counter() - began - found["closing"]}


def main(engine: str) -> None:
    """Import clfunc, train one step, and print the seconds of the import."""
    began = time.perf_counter()
    import clfunc  # noqa: F401

    imported = time.perf_counter() - began
    from benchmarks import cases, contender

    cases.IMAGES = 1024
    job = cases.job(cases.CASES["hat"], RUNS, "cpu")
    own, _ = contender.own(job, engine)
    own.advance(own.start(job.params, job.state, False), cases.entries(job, 1, 0))
    print(json.dumps({"import": imported, "closing": 0.0}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
