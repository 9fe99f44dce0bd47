"""Compile the networks that rates.py measures compiled, so that it finds them in torch's cache. A part of run.sh.

It measures nothing. It runs beside the tests, and ends when it is out of time.
"""

import sys
import time

from rates import made, ways
from rows import OWN_MARGIN, until


def main() -> int:
    end = until(__doc__) - OWN_MARGIN
    for way in ways():
        if not way.compiled or way.lacks:
            continue
        if time.time() > end:
            break
        began = time.monotonic()
        try:
            run, _ = made(way)
            run(1)
            print(f"{way}: compiled in {time.monotonic() - began:.1f} s", flush=True)
        except Exception as error:  # rates.py makes a row of it
            print(f"{way}: {type(error).__name__}: {error}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
