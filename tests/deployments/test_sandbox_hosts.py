"""Host readings that a test sets: the shape that the product reads."""

import json
import subprocess

import pytest

from blocks.host_reading import GpuReading, HostReading
from blocks.stack import parse_stack
from deployments.sandbox.local import Sandbox, SandboxError
from deployments.sandbox.local_hosts import GPU, READING


@pytest.fixture
def box(tmp_path):
    with Sandbox.create(tmp_path) as box:
        yield box


def read(box, name) -> HostReading:
    argv = box.host_fragment(name)["argv"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return HostReading.model_validate_json(done.stdout)


def test_the_fields_are_those_that_the_product_reads():
    assert set(READING) == set(HostReading.model_fields)
    assert set(GPU) == set(GpuReading.model_fields)


def test_a_host_is_healthy_until_told_otherwise(box):
    box.host("motoko")
    found = read(box, "motoko")
    assert [g.index for g in found.gpus] == [0, 1]
    assert len({g.uuid for g in found.gpus} | {g.bus_id for g in found.gpus}) == 4
    assert (found.problems, found.gpus[0].xid, found.gpus[0].lost) == ((), 0, False)


def test_values_are_kept_between_calls_and_gpus_are_healthy_but_for_what_is_said(box):
    box.host("motoko", cpu_share=0.99, gpus=[{}, {"xid": 79, "ecc_uncorrected": 3}])
    box.host("motoko", memory_share=None, problems=["memory: no /proc/meminfo"])
    found = read(box, "motoko")
    assert (found.cpu_share, found.memory_share) == (0.99, None)
    assert found.about("memory") == "memory: no /proc/meminfo"
    good, bad = found.gpus
    assert (good.ecc_uncorrected, good.unsupported) == (None, ("ecc_uncorrected",))
    assert (bad.xid, bad.ecc_uncorrected, bad.unsupported) == (79, 3, ())


@pytest.mark.parametrize(("gpus", "found"), [(0, ()), (None, None)])
def test_no_gpu_is_not_an_unreadable_one(box, gpus, found):
    box.host("m", gpus=gpus)
    assert read(box, "m").gpus == found


def test_unknown_readings_are_refused(box):
    for values in ({"cpu": 1}, {"gpus": [{"heat": 90}]}):
        with pytest.raises(SandboxError, match="unknown"):
            box.host("m", **values)


def test_the_inventory_of_a_sandbox_with_a_host_and_a_proxy_is_valid(box):
    box.host("motoko")
    box.add_vllm("wintermute")
    box.add_litellm("proxy", {"neuromancer": {"backend": "wintermute"}}, master_key="sk-1")
    document = box.stack()
    document["services"]["wintermute"]["host"] = "motoko"
    text = json.dumps(document)
    assert "sk-1" not in text
    stack = parse_stack(text)
    assert (stack.services["proxy"].engine, stack.services["proxy"].serving.kind) == (
        "litellm",
        "litellm",
    )
    assert stack.hosts["motoko"].argv[0] == "cat"
