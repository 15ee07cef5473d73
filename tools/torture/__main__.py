"""Tries to break panorama and prints what came of it.

python -m tools.torture                      all checks, minutes
python -m tools.torture --quick              a part of each, seconds
python -m tools.torture --only pictures      checks whose name begins so
"""

import argparse
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks: threads cost more than they bring

from tools.torture.checks import all_checks, examine_bounded, table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.torture", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the checks and what each tries")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="checks whose name is or begins with NAME; several are allowed"
    )
    parser.add_argument("--quick", action="store_true", help="a part of every check")
    arguments = parser.parse_args()
    checks = all_checks()
    if arguments.only:
        checks = [check for check in checks if any(check.name.startswith(name) for name in arguments.only)]
        if not checks:
            parser.error(f"no check is called {', '.join(arguments.only)}; there are {', '.join(c.name for c in all_checks())}")
    if arguments.list:
        for check in checks:
            print(f"{check.name}: {check.about}\n    control: {check.control_is}")
        return 0
    results = []
    start_seconds = time.perf_counter()
    for check in checks:
        print(f"{check.name} ...", file=sys.stderr, flush=True)
        result = examine_bounded(check, arguments.quick)
        results.append(result)
        for sentence in result.verdicts[:20]:
            print(f"  WRONG: {sentence}", flush=True)
    print(table(results))
    failed = [result.check.name for result in results if result.failed]
    print(
        f"{len(results)} checks in {time.perf_counter() - start_seconds:.0f} s; {'failed: ' + ', '.join(failed) if failed else 'nothing is wrong'}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
