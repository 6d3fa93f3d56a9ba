"""python -m tests.cluster.local up|down|is-up|status|programs: the cluster of this machine."""

import sys
import time

from tests.cluster.local.cluster import down, is_up, status, up
from tests.cluster.local.layout import KUBECONFIG
from tests.cluster.local.programs import build_programs


def main() -> None:
    argument = sys.argv[1] if len(sys.argv) == 2 else ""
    begun = time.monotonic()
    if argument == "up":
        made = up()
        print(f"up in {time.monotonic() - begun:.0f} s" if made else "it is up")
        print(f"export KUBECONFIG={KUBECONFIG}")
    elif argument == "down":
        down()
    elif argument == "is-up":
        sys.exit(not is_up())
    elif argument == "status":
        print(status())
    elif argument == "programs":
        print(build_programs())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError) as exc:
        sys.exit(f"error: {exc}")
