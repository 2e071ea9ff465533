"""A client of the node's REST API, for scripts.

    with NodeClient("http://127.0.0.1:8045", token) as node:
        for study in node.studies(state="ready"):
            node.fetch_results(study["id"], "results")

The token is made in the pages under Tokens; its scopes decide what the client may do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from ichnos.errors import IchnosError
from ichnos.files import atomic_file

_TIMEOUT_S = 60.0
_ON_ITS_WAY = ("received", "queued", "reading")


class NodeRefused(IchnosError):
    """The node does not answer, or does not do what was asked."""


class NodeClient:
    """Speaks to one node."""

    def __init__(self, url: str, token: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._http = httpx2.Client(
            base_url=f"{url.rstrip('/')}/api/v1/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def studies(
        self, *, state: str = "", open_only: bool = False, limit: int = 200, offset: int = 0
    ) -> list[dict[str, Any]]:
        """Return the worklist: what nobody has acknowledged first, in that the most urgent study first."""
        wanted = {"state": state, "open_only": open_only, "limit": limit, "offset": offset}
        return list(self._ask("GET", "studies", params=wanted))

    def study(self, study_id: int) -> dict[str, Any]:
        """Return one study: state, measures, deliveries, timeline, priors."""
        return dict(self._ask("GET", f"studies/{study_id}"))

    def wait_until_read(
        self, study_id: int, *, timeout_s: float = 600.0, pause_s: float = 1.0
    ) -> dict[str, Any]:
        """Return a study once it is read, refused or failed."""
        ends = time.monotonic() + timeout_s
        while (study := self.study(study_id))["row"]["state"] in _ON_ITS_WAY:
            if time.monotonic() > ends:
                raise NodeRefused(f"study {study_id} was not read within {timeout_s:g} s")
            time.sleep(pause_s)
        return study

    def reading(self, study_id: int) -> dict[str, Any]:
        """Return the whole record of a reading."""
        return dict(self._ask("GET", f"studies/{study_id}/reading.json"))

    def results(self, study_id: int) -> list[dict[str, Any]]:
        """Return name and size of each file of a reading."""
        return list(self._ask("GET", f"studies/{study_id}/results"))

    def fetch_results(self, study_id: int, folder: str | Path) -> list[Path]:
        """Write the files of a reading below `folder/STUDY_ID`; return their paths."""
        root, paths = Path(folder) / str(study_id), []
        for result in self.results(study_id):
            path = root / result["name"]
            if not path.resolve().is_relative_to(root.resolve()):
                raise NodeRefused(f"the node names a file outside its folder: {result['name']}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as temporary:
                temporary.write_bytes(
                    self._answer("GET", f"studies/{study_id}/results/{quote(result['name'])}").content
                )
            paths.append(path)
        return paths

    def acknowledge(self, study_id: int) -> None:
        """Note that the owner of the token has seen a study."""
        self._ask("POST", f"studies/{study_id}/acknowledge")

    def read_again(self, study_id: int, *, model: str = "") -> None:
        """Queue a study for another reading, with another model if one is named."""
        self._ask("POST", f"studies/{study_id}/read", json={"model": model})

    def send(self, study_id: int, destination: str) -> None:
        """Queue the results of a study for a destination."""
        self._ask("POST", f"studies/{study_id}/send/{quote(destination, safe='')}")

    def destinations(self) -> list[dict[str, Any]]:
        """Return the destinations and whether they are enabled."""
        return list(self._ask("GET", "destinations"))

    def add_destination(self, **settings: Any) -> None:
        """Add a destination; the settings are those of the settings file."""
        self._ask("POST", "destinations", json=settings)

    def switch_destination(self, name: str, *, enabled: bool) -> None:
        """Enable or disable a destination."""
        self._ask("POST", f"destinations/{quote(name, safe='')}/{'enable' if enabled else 'disable'}")

    def remove_destination(self, name: str) -> None:
        """Remove a destination that is not in the settings file."""
        self._ask("DELETE", f"destinations/{quote(name, safe='')}")

    def test_destination(self, name: str) -> str:
        """Return why a destination does not answer; "" where it does."""
        return str(self._ask("POST", f"destinations/{quote(name, safe='')}/test")["problem"])

    def models(self) -> list[dict[str, Any]]:
        """Return the installed models and which one reads."""
        return list(self._ask("GET", "models"))

    def choose_model(self, name: str) -> None:
        """Read new studies with this model."""
        self._ask("PUT", f"models/{quote(name, safe='')}/reads")

    def events(self, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Return every event after one, in order; call again with the last one's `id` to follow the node."""
        while batch := self._ask("GET", "events", params={"after": after, "limit": 1000}):
            yield from batch
            after = batch[-1]["id"]

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self._answer(method, path, **options)
        return answer.json() if answer.content else None

    def _answer(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise NodeRefused(f"the node does not answer ({type(error).__name__})") from None
        if answer.is_error:
            raise NodeRefused(f"{answer.status_code}: {_detail(answer)}")
        return answer


def _detail(answer: httpx2.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
    return detail if isinstance(detail, str) else "; ".join(str(one.get("msg", one)) for one in detail)
