"""Asks a running service whether its views say what its events say: behind `make audit`.

    python scripts/audit.py [--url http://localhost:8006] [--days N] [--repair]

Exit code 0 when they do, 1 when something differs (with --repair: still), 2 when nothing can be
said. ADMIN_API_KEY of the environment is sent as a bearer token.
"""

import argparse
import os
import sys

import httpx

PREFIX = "/api/v1/analytics/admin"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://localhost:8006", help="the service")
    parser.add_argument("--days", type=int, default=3650, help="the last so many UTC days")
    parser.add_argument("--repair", action="store_true", help="make what differs anew")
    arguments = parser.parse_args()
    key = os.environ.get("ADMIN_API_KEY")
    try:
        answer = httpx.request(
            "POST" if arguments.repair else "GET",
            f"{arguments.url}{PREFIX}/{'repair' if arguments.repair else 'audit'}",
            params={"days": arguments.days},
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=None,  # noqa: S113 - it takes as long as there are events
        )
        said = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        print(f"no answer from {arguments.url}: {error}", file=sys.stderr)
        return 2
    if answer.status_code != httpx.codes.OK:
        print(f"{arguments.url}: {said['status']} {said['detail']}", file=sys.stderr)
        return 2
    if arguments.repair:
        print_differences(said["repaired"])
        print(f"repaired in {said['took_seconds']} s")
    else:
        print(
            f"{said['days']} days, {said['first_day']} to {said['last_day']}, of "
            f"{', '.join(said['rollups'])}, in {said['took_seconds']} s"
        )
    print_differences(said["differences"])
    print("something differs" if said["differences"] else "the views say what the events say")
    return 1 if said["differences"] else 0


def print_differences(differences: list[dict[str, str | int]]) -> None:
    for one in differences:
        print(
            f"  {one['day']}  {one['rollup']:<16} {one['what']}: "
            f"{one['expected']} expected, {one['found']} found"
        )


if __name__ == "__main__":
    sys.exit(main())
