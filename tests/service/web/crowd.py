"""What locust's users do with a node: a reader who looks at the worklist, and a program that asks the API.

`test_crowd.py` runs it; ICHNOS_COOKIE and ICHNOS_TOKEN say who they are.
"""

from __future__ import annotations

import os

from locust import HttpUser, between, task


class Reader(HttpUser):
    """Somebody who is signed in and looks at the worklist, at studies and at the evidence."""

    wait_time = between(0.1, 0.5)

    def on_start(self) -> None:
        self.client.headers["Cookie"] = os.environ["ICHNOS_COOKIE"]

    @task(4)
    def worklist(self) -> None:
        self.client.get("/worklist")

    @task(2)
    def study(self) -> None:
        with self.client.get("/studies/1", name="/studies/N", catch_response=True) as answer:
            if answer.status_code == 404:  # an empty node has no first study
                answer.success()

    @task(1)
    def evidence(self) -> None:
        self.client.get("/evidence")


class Program(HttpUser):
    """A program with a token that asks REST and DICOMweb."""

    wait_time = between(0.05, 0.2)

    def on_start(self) -> None:
        self.client.headers["Authorization"] = f"Bearer {os.environ['ICHNOS_TOKEN']}"

    @task(3)
    def studies(self) -> None:
        self.client.get("/api/v1/studies")

    @task(1)
    def events(self) -> None:
        self.client.get("/api/v1/events")

    @task(2)
    def dicomweb(self) -> None:
        self.client.get("/dicom-web/studies")
