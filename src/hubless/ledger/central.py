"""The baseline: a database on one peer, which everybody asks and which can change any row without a trace.

Rows have numbers as ids and no signature; nobody can check an answer. In return it is the fastest of all engines while
the one server is up and honest.
"""

from __future__ import annotations

import sqlite3

from hubless.errors import LedgerError, RecordTooLarge, UnknownRecord
from hubless.ledger import record
from hubless.ledger.record import Record
from hubless.ledger.store import Engine, Receipt
from hubless.net.network import Network
from hubless.net.serving import Context
from hubless.net.transports.transport import PeerId

TABLE = "create table records (id integer primary key, record blob not null)"


class CentralDB(Engine):
    """One peer's way to the database; the peer that is ``server`` holds it."""

    kind = "central"

    def __init__(
        self, net: Network, members: list[PeerId], server: PeerId, *, name: str = "central", limit: int = 64 << 10
    ) -> None:
        super().__init__(net, members, name=name, suite="sha256", limit=limit)
        self.server = server
        self.rows: sqlite3.Connection | None = None
        if server == net.peer_id:
            self.rows = sqlite3.connect(":memory:", isolation_level=None)
            self.rows.execute(TABLE)
        net.serve(f"{name}/put", self._put_for)
        net.serve(f"{name}/get", self._get_for)

    def close(self) -> None:
        """Close the database."""
        if self.rows is not None:
            self.rows.close()

    async def append(self, record: Record) -> Receipt:
        """Send a record to the server. Raises RecordTooLarge, NetworkError."""
        answer = await self.net.request(self.server, f"{self.name}/put", record.encode())
        if not answer:
            raise RecordTooLarge(f"{self.name}: refused; at most {self.limit:,} bytes")
        self.settle(answer)
        return Receipt(self.name, answer, self.net.now())

    async def get(self, id: bytes) -> Record:
        """Whatever the server says is in that row. Raises UnknownRecord, NetworkError."""
        answer = await self.net.request(self.server, f"{self.name}/get", id)
        if not answer:
            raise UnknownRecord(f"{self.name}: no row {id.hex()}")
        return record.decode(answer)

    def order(self) -> list[bytes]:
        """The rows of the server in their order; of another peer those that it wrote."""
        if self.rows is None:
            return list(self.settled)
        return [_id(row) for (row,) in self.rows.execute("select id from records order by id")]

    def overwrite(self, id: bytes, record: Record) -> None:
        """Put another record into a row, as whoever runs the server can."""
        assert self.rows is not None
        self.rows.execute("update records set record = ? where id = ?", (record.encode(), int.from_bytes(id, "big")))

    def audit(self) -> list[str]:
        """Nothing: a row has nothing to be checked against."""
        return []

    def stored(self) -> int:
        """Bytes of the database; none but at the server."""
        if self.rows is None:
            return 0
        ((pages,),) = self.rows.execute("pragma page_count")
        ((size,),) = self.rows.execute("pragma page_size")
        return int(pages * size)

    def _put_for(self, _: Context, raw: bytes) -> bytes:
        if self.rows is None or len(raw) > self.limit:
            return b""
        try:
            record.decode(raw)
        except LedgerError:
            self.drop("record")
            return b""
        row = self.rows.execute("insert into records (record) values (?)", (raw,)).lastrowid
        return _id(row or 0)

    def _get_for(self, _: Context, id: bytes) -> bytes:
        if self.rows is None or len(id) > 8:
            return b""
        found = self.rows.execute("select record from records where id = ?", (int.from_bytes(id, "big"),)).fetchone()
        return bytes(found[0]) if found else b""


def _id(row: int) -> bytes:
    return row.to_bytes(8, "big")
