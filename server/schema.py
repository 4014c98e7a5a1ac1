"""The tables of a server's state: who belongs to the federation, and what has come in."""

__all__ = ["SCHEMA", "VERSION"]

VERSION = 3

SCHEMA = (
    # One row. `revision` counts what changes who may do what: every process looks at it.
    """CREATE TABLE control (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        revision INTEGER NOT NULL,
        paused INTEGER NOT NULL,
        job TEXT NOT NULL -- whose rounds these are: SHA-256 of its manifest
    )""",
    "INSERT INTO control VALUES (1, 0, 0, '')",
    """CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        secret TEXT NOT NULL, -- its SHA-256, hex
        name TEXT NOT NULL,
        uses INTEGER NOT NULL, -- left
        created REAL NOT NULL,
        expires REAL NOT NULL,
        revoked INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE clients (
        name TEXT PRIMARY KEY,
        token TEXT NOT NULL,
        key TEXT NOT NULL, -- of the certificate, SHA-256, hex
        serial TEXT NOT NULL, -- of the certificate given last
        enrolled REAL NOT NULL,
        revoked REAL, -- when
        quarantined REAL, -- since when
        strikes INTEGER NOT NULL DEFAULT 0,
        accepted INTEGER NOT NULL DEFAULT 0,
        refused INTEGER NOT NULL DEFAULT 0,
        last_code TEXT NOT NULL DEFAULT '',
        num_examples INTEGER NOT NULL DEFAULT 0,
        device TEXT NOT NULL DEFAULT '',
        seen REAL,
        revision INTEGER NOT NULL
    )""",
    "CREATE INDEX clients_by_revision ON clients (revision)",
    """CREATE TABLE rounds (
        number INTEGER PRIMARY KEY,
        attempt INTEGER NOT NULL,
        stage INTEGER NOT NULL,
        opened REAL NOT NULL,
        closed INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE cohort (
        round INTEGER NOT NULL REFERENCES rounds ON DELETE CASCADE,
        position INTEGER NOT NULL,
        client TEXT NOT NULL,
        num_examples INTEGER NOT NULL,
        tier TEXT NOT NULL,
        memory INTEGER NOT NULL,
        ticket TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        PRIMARY KEY (round, position)
    )""",
    # AUTOINCREMENT: no number is given twice, also after rows were deleted.
    """CREATE TABLE results (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        round INTEGER NOT NULL REFERENCES rounds ON DELETE CASCADE,
        kind TEXT NOT NULL,
        client TEXT NOT NULL,
        ticket TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        size INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        codec TEXT NOT NULL,
        num_examples INTEGER NOT NULL,
        metrics TEXT NOT NULL, -- JSON
        cost TEXT NOT NULL, -- JSON
        segment TEXT NOT NULL,
        start INTEGER NOT NULL,
        length INTEGER NOT NULL,
        UNIQUE (round, kind, client)
    )""",
    """CREATE TABLE refusals (
        id INTEGER PRIMARY KEY,
        round INTEGER NOT NULL,
        client TEXT NOT NULL,
        code TEXT NOT NULL,
        reason TEXT NOT NULL
    )""",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
)
