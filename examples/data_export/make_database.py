"""Makes the SQLite database that this example exports: `python examples/data_export/make_database.py [zones.sqlite3]`.

zones.csv is zone.tab of the IANA time zone database 2025b, which is in the public domain, with countries' names from
its iso3166.tab and offsets from UTC on the first of January and of July 2025, as Python's zoneinfo has them.
"""

import csv
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

SCHEMA = """
CREATE TABLE zones (
    zone TEXT PRIMARY KEY,
    country_code TEXT NOT NULL,
    country TEXT NOT NULL,
    latitude REAL NOT NULL,
    longitude REAL NOT NULL,
    january_offset_seconds INTEGER NOT NULL,
    july_offset_seconds INTEGER NOT NULL,
    comment TEXT
)
"""


def make(path: Path) -> int:
    """Write the database anew. Returns how many zones it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(__file__).with_name("zones.csv").open(newline="", encoding="utf-8") as file:
        rows = [[value or None for value in row] for row in csv.reader(file)][1:]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE IF EXISTS zones")
        database.execute(SCHEMA)
        # Numbers arrive as text; a column's affinity makes them numbers.
        database.executemany(f"INSERT INTO zones VALUES ({', '.join('?' * len(rows[0]))})", rows)
    return len(rows)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "output" / "zones.sqlite3")
    print(f"{target}: {make(target)} zones")
