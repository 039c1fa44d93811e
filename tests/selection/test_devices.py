from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from infra.errors import InvalidInput
from selection.devices import on_all_cores, torch_device, torch_devices


def test_auto_is_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == torch.device("cpu")
    assert torch_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("wanted", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, wanted: str, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InvalidInput, match=f"MLPL_DEVICE={wanted}") as raised:
        torch_device(wanted)
    assert "\n" not in raised.value.message


def test_a_gpu_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device("auto") == torch.device("cuda")
    assert torch_device("cuda:1") == torch.device("cuda:1")
    assert torch_devices("auto") == torch_devices("cuda") == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert torch_devices("cuda:1") == [torch.device("cuda:1")]
    assert torch_devices("cpu") == [torch.device("cpu")]


def test_work_for_all_cores_is_always_done_in_one_thread() -> None:
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = [pool.submit(on_all_cores, threading.get_ident) for _ in range(20)]
    found = {one.result() for one in asked} | {on_all_cores(threading.get_ident)}

    assert len(found) == 1
    assert threading.get_ident() not in found
    assert (
        on_all_cores(lambda: on_all_cores(threading.get_ident)) in found
    )  # Asked from that thread it waits for nobody.


_WHILE_TORCH_LOADS = """
import sys, threading
from selection.devices import torch_if_loaded
loading = threading.Thread(target=__import__, args=("torch",))
loading.start()
parts = 0
while loading.is_alive():
    parts += "torch" in sys.modules and torch_if_loaded() is None
print(parts > 0, torch_if_loaded() is sys.modules["torch"])
"""


def test_torch_that_another_thread_still_loads_is_not_touched() -> None:
    found = subprocess.run([sys.executable, "-c", _WHILE_TORCH_LOADS], capture_output=True, text=True, check=False)
    assert (found.stdout.split(), found.stderr) == (["True", "True"], "")


def test_an_error_of_the_work_reaches_who_asked() -> None:
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda: 1 // 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_a_thread_of_its_own() -> None:
    on_all_cores(threading.get_ident)
    child = multiprocessing.get_context("fork").Process(target=on_all_cores, args=(threading.get_ident,))
    child.start()
    child.join(timeout=30)
    assert child.exitcode == 0


def test_what_is_asked_at_the_end_of_the_interpreter_is_done() -> None:
    script = """
import threading
from selection.devices import on_all_cores
def late():
    on_all_cores(int)
    threading.main_thread().join()
    print(on_all_cores(lambda: 7))
threading.Thread(target=late).start()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "7\n", run.stderr
