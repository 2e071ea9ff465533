"""Run the loops of a node: one of them in this process, or all of them as watched child processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Literal

from ichnos.service.node import Node, open_node
from ichnos.service.settings import NodeSettings

Loop = Literal["receiver", "assembler", "worker", "sender", "web"]
LOOPS: tuple[Loop, ...] = ("receiver", "assembler", "worker", "sender", "web")
_PAUSE_S = 0.5  # of a loop that found nothing to do
DRAIN_S = 30.0  # for children to finish what they do
_RESTART_S = 2.0  # between the death of a child and its successor
_log = logging.getLogger(__name__)


def log_to_stderr() -> None:
    """Log one line per event to the standard error stream; libraries speak only of errors."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("ichnos").setLevel(logging.INFO)
    for library in ("pydicom", "pynetdicom"):  # their warnings hold names of patients and values of headers
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pydicom")  # the same ones again


def run_loop(loop: Loop, settings: NodeSettings) -> None:
    """Run one loop until SIGTERM or SIGINT; it finishes what it has begun."""
    log_to_stderr()
    node = open_node(settings)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: node.stopping.set())
    _stop_with_parent(node)
    _BODIES[loop](node)
    node.database.close()


def _stop_with_parent(node: Node) -> None:
    """End this process when the one that started it was killed; else its ports would stay taken."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        _log.error("the parent process is gone; stopping")
        node.stopping.set()
        os.kill(os.getpid(), signal.SIGTERM)  # uvicorn listens to signals alone

    threading.Thread(target=watch, daemon=True).start()


def _receive(node: Node) -> None:
    from ichnos.service.receiver import Receiver, refuse_taken_port

    if multiprocessing.parent_process() is None:
        refuse_taken_port(node.settings.receiver)
    receiver = Receiver(node)
    receiver.start()
    node.stopping.wait()
    receiver.stop(drain_s=DRAIN_S * 0.8)


def _assemble(node: Node) -> None:
    from ichnos.service.assembler import assemble
    from ichnos.service.completeness import Completeness
    from ichnos.service.partners.finder import PairFinder
    from ichnos.service.upkeep.daily import Upkeep

    upkeep, completeness, finder = Upkeep(node), Completeness(node), PairFinder(node)

    def step(_: Node) -> bool:
        return assemble(node, completeness.complete_studies()) or finder.step() or upkeep.step()

    node.repeat(step, pause_s=_PAUSE_S)


def _work(node: Node) -> None:
    from ichnos.service.partners.judge import PairJudge
    from ichnos.service.partners.search import PartnerSearch
    from ichnos.service.partners.shadow import ShadowReader
    from ichnos.service.partners.tuner import FineTuner
    from ichnos.service.worker import Worker, load_model_ahead, study_reader

    load_model_ahead(node)
    worker = Worker(node, study_reader(node), partial(study_reader, node))
    judge, shadow = PairJudge(node), ShadowReader(node, partial(study_reader, node))
    search, tuner = PartnerSearch(node), FineTuner(node)

    def step(_: Node) -> bool:  # what people wait for comes first
        return worker.step() or shadow.step() or judge.step() or search.step() or tuner.step()

    try:
        node.repeat(step, pause_s=_PAUSE_S)
    finally:
        tuner.stop()


def _send(node: Node) -> None:
    from ichnos.service.sender import Sender
    from ichnos.service.upkeep.audit_sender import AuditSender

    sender, audit = Sender(node), AuditSender(node)

    def step(_: Node) -> bool:  # both, so that neither waits for the other's queue to be empty
        return any([sender.step(), audit.step()])

    node.repeat(step, pause_s=_PAUSE_S)


def _serve_web(node: Node) -> None:
    import uvicorn

    from ichnos.service.web.app import create_app

    web = node.settings.web
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(node), host=web.host, port=web.port, log_level="warning", server_header=False
        )
    )
    server.run()
    node.stopping.set()


_BODIES: dict[Loop, Callable[[Node], None]] = {
    "receiver": _receive,
    "assembler": _assemble,
    "worker": _work,
    "sender": _send,
    "web": _serve_web,
}


def run_all(settings: NodeSettings) -> None:
    """Run every loop as a child process; start one anew when it dies; end all on SIGTERM or SIGINT."""
    from ichnos.service.receiver import refuse_taken_port

    open_node(settings).database.close()  # tables exist before several processes ask for them
    refuse_taken_port(settings.receiver)
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    wanted = [(loop, k) for loop in LOOPS for k in range(_processes(loop, settings))]
    children: dict[tuple[Loop, int], BaseProcess] = {}
    while not stopping.is_set():
        for loop, k in wanted:
            child = children.get((loop, k))
            if child is not None and not child.is_alive():
                _log.error("the %s ended with code %s; it is started again", loop, child.exitcode)
                time.sleep(_RESTART_S)
            if child is None or not child.is_alive():
                children[loop, k] = _started(loop, settings)
        time.sleep(_PAUSE_S)
    _end(list(children.values()))


def _processes(loop: Loop, settings: NodeSettings) -> int:
    return settings.receiver.processes if loop == "receiver" else 1


def _started(loop: Loop, settings: NodeSettings) -> BaseProcess:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=run_loop, args=(loop, settings), name=f"ichnos-{loop}")
    child.start()
    return child


def _end(children: Sequence[BaseProcess]) -> None:
    """Let children finish what they do; kill those that take too long."""
    for child in children:
        child.terminate()
    ends = time.monotonic() + DRAIN_S
    for child in children:
        child.join(max(0.1, ends - time.monotonic()))
        if child.is_alive():
            child.kill()  # its lease runs out, and another worker takes its task
