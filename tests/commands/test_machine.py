import platform

import pytest
import torch

from pellucid import __version__
from pellucid.commands import machine


def test_versions_threads_and_engine():
    report = machine.report()
    assert report["pellucid"] == __version__
    assert report["torch"] == torch.__version__
    assert report["python"].startswith(platform.python_version())
    assert report["threads"].startswith(f"{torch.get_num_threads()} in an operation")
    assert report["engine on cpu"] in report["engines"].split(", ")
    assert report["self check"].startswith("ok: at most ")
    assert float(report["self check"].split()[3]) < 1e-5


def test_where_kernels_are_kept_or_why_not(monkeypatch, tmp_path):
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "kernels"))
    assert machine.report()["kernels kept"] == f"{tmp_path / 'kernels'}, 0 kernels, 0.0 MB"
    monkeypatch.setenv("PELLUCID_CACHE", "kernels")
    report = machine.report()["kernels kept"]
    assert report == "not used: PELLUCID_CACHE: an absolute path is needed, got 'kernels'"


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package"))
    assert machine.report()["no-such-package"] == "not installed"


def test_packages_that_some_have_are_told_where_they_are(monkeypatch):
    assert {"transformers", "pyarrow", "starlette", "uvicorn", "anywidget"} <= set(machine.OPTIONAL)
    monkeypatch.setattr(machine, "OPTIONAL", ("pytest", "no-such-package"))
    report = machine.report()
    assert report["pytest"] == pytest.__version__
    assert "no-such-package" not in report


def test_an_engine_that_there_is_not(monkeypatch):
    monkeypatch.setenv("PELLUCID_ENGINE", "nonsense")
    report = machine.report()
    assert "no engine is named 'nonsense'" in report["engine on cpu"]
    assert report["self check"].startswith("FAILED: ValueError: ")
    assert "PELLUCID_ENGINE=nonsense" in report["environment"]


X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse2 avx2 avx512f avx512_bf16\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp bf16 sve\n\n"


@pytest.mark.parametrize(
    ("content", "features"),
    [
        (X86, "avx2 avx512f avx512_bf16"),
        (ARM, "asimd asimddp bf16 sve"),
        ("flags : fpu\n", "none of those that matter"),
    ],
)
def test_processor_features(monkeypatch, content, features):
    monkeypatch.setattr(machine.Path, "read_text", lambda *_, **__: content)
    assert machine.report()["features"] == features


def test_a_processor_nothing_is_known_of(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(machine.Path, "read_text", missing)
    monkeypatch.setattr(machine, "_llvm", lambda: None)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    report = machine.report()
    assert report["features"] == "unknown"
    assert report["processor"] == f"unknown ({platform.machine()})"


def test_features_from_llvm_are_spelled_as_on_linux(monkeypatch):
    binding = pytest.importorskip("llvmlite.binding")
    present = {"avx2": True, "avx512bf16": True, "amx-tile": False, "amx-bf16": True}
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: present)
    assert machine._llvm_features().split() == ["avx2", "avx512_bf16", "amx_bf16"]
