import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from mlflow_compress import packed
from mlflow_compress.errors import CompressError, ConfigError, UnreachableError
from mlflow_compress.targets import AccuracyLimits, Execution, Target, load_target
from mlflow_compress.targets.devices import (
    CommandDevice,
    DeviceFacts,
    LocalDevice,
    SshDevice,
    device_for,
    loads_opset,
    measure_many,
    measure_on,
    read_facts,
    verify,
)

TARGET = Target("pi", accuracy=AccuracyLimits(max_drop=0.01))


def at(place, **execution):
    return replace(TARGET, measured_on=place, execution=Execution(**execution))


@pytest.mark.parametrize(
    ("address", "device"),
    [
        ("local", LocalDevice()),
        ("ssh://pi@box", SshDevice("ssh://pi@box", "pi@box")),
        ("ssh://box:2222", SshDevice("ssh://box:2222", "box", 2222)),
        (
            "ssh://box?python=/opt/venv/bin/python",
            SshDevice("ssh://box?python=/opt/venv/bin/python", "box", None, "/opt/venv/bin/python"),
        ),
        (
            "cmd:docker exec -i 'my box'",
            CommandDevice("cmd:docker exec -i 'my box'", ("docker", "exec", "-i", "my box")),
        ),
    ],
)
def test_addresses(address, device):
    assert device_for(address) == device


@pytest.mark.parametrize(
    "address",
    [
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://box:port",
        "ssh://box/path",
        "ssh://box?shell=sh",
        "cmd:",
        "cmd:docker 'exec",
        "http://box",
    ],
)
def test_addresses_that_are_refused(address):
    with pytest.raises(ConfigError, match="measured_on"):
        device_for(address)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="ssh://me:…@box") as caught:
        device_for("ssh://me:sesame@box")
    assert "sesame" not in str(caught.value)


def test_ssh_never_accepts_an_unknown_host_key():
    command = SshDevice("ssh://box", "box", 2222).command(["-c", "print('a b')"])
    assert "StrictHostKeyChecking=yes" in command
    assert "BatchMode=yes" in command
    assert command[-3:] == ["--", "box", """exec python3 -c 'print('"'"'a b'"'"')'"""]


def test_a_template_takes_the_command_where_it_says():
    device = device_for("cmd:adb exec-in {command}")
    assert device.command(["-c", "x y"]) == ["adb", "exec-in", "python3 -c 'x y'"]
    assert device_for("cmd:lxc exec box --").command(["-c", "x"])[-4:] == [
        "--",
        "python3",
        "-c",
        "x",
    ]


def test_measured_here(models, rows):
    found = measure_on(TARGET, *models, rows, rounds=5)
    latency = found.latency
    assert (latency.device, latency.threads, latency.batch) == ("local", 1, 16)
    assert 0 < latency.p50 <= latency.p95
    # The source does forty times the work.
    assert latency.ratio < 0.7
    assert latency.ratio_interval.low <= latency.ratio <= latency.ratio_interval.high < 1
    assert found.memory_bytes > 10_000_000


def test_peak_memory_is_that_of_the_variant(models, rows, tmp_path):
    big = tmp_path / "big.onnx"
    model = onnx.load(models[0])
    extra = np.ones((64, 64, 4096), np.float32)  # 67 MB
    model.graph.initializer.append(onnx.numpy_helper.from_array(extra, "extra"))
    model.graph.node.append(onnx.helper.make_node("ReduceMax", ["extra"], ["e"], keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, []))
    onnx.save(model, big)
    small = measure_on(TARGET, *models, rows, rounds=2).memory_bytes
    assert measure_on(TARGET, big, models[1], rows, rounds=2).memory_bytes > small + 50_000_000


def test_a_compact_variant_is_measured_with_our_runtime(models, rows, tmp_path):
    path = tmp_path / "compact.onnx"
    packed.save(packed.pack(onnx.load(models[0]), "compact"), path)
    found = measure_on(TARGET, path, models[1], rows, compact=True, rounds=2)
    assert found.latency.p50 > 0


def test_measured_over_ssh(ssh_host, models, rows):
    target = at(ssh_host.url)
    found = measure_on(target, *models, rows, rounds=3)
    assert found.latency.device == ssh_host.url
    assert found.latency.ratio < 0.7
    facts = read_facts(device_for(ssh_host.url))
    assert facts.cores == os.cpu_count()
    verify(target, facts)


def test_an_unknown_host_key_is_refused(ssh_host):
    ssh_host.known_hosts.write_text("")
    with pytest.raises(UnreachableError, match="Host key verification failed"):
        read_facts(device_for(ssh_host.url))
    assert ssh_host.known_hosts.read_text() == ""


def test_nothing_is_left_on_the_device(models, rows, tmp_path, monkeypatch):
    place = tmp_path / "device-tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    measure_on(
        at(f"cmd:env {sys.executable} {{command}}"), *models, rows, rounds=2, device=LocalDevice()
    )
    assert list(place.iterdir()) == []


def test_measured_by_a_command(models, rows, script):
    shell = script("box", f'exec {sys.executable} "$@"')
    device = CommandDevice("cmd:box", (str(shell),), python="-u")
    found = measure_on(at("cmd:box"), *models, rows, rounds=2, device=device)
    assert found.latency.device == "cmd:box"


def flaky(script, tmp_path, failures, what):
    """A device that does ``what`` for its first ``failures`` tries."""
    counter = tmp_path / "tries"
    return script(
        "flaky",
        f"n=$(cat {counter} 2>/dev/null || echo 0); echo $((n + 1)) > {counter}\n"
        f'if [ "$n" -lt {failures} ]; then {what}; fi\nexec {sys.executable} "$@"',
    ), counter


@pytest.mark.parametrize(
    "what",
    [
        "echo 'ssh: connect to host box port 22: Connection refused' >&2; exit 255",
        "head -c 100 >/dev/null; kill -9 $$",
        "echo 'OSError: [Errno 28] No space left on device' >&2; exit 1",
        "echo '{\"fastest\": [[1'; exit 0",
        "exit 0",
    ],
    ids=["unreachable", "dies midway", "disk full", "half an answer", "no answer"],
)
def test_a_device_that_stumbles_is_tried_again(models, rows, script, tmp_path, what):
    path, counter = flaky(script, tmp_path, 2, what)
    device = CommandDevice("cmd:flaky", (str(path),), python="-u")
    assert measure_on(at("cmd:flaky"), *models, rows, rounds=2, device=device).memory_bytes > 0
    assert int(counter.read_text()) == 4  # two failures, then time and memory


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("echo noise >&2; echo 'No space left on device' >&2; exit 1", "No space left on device"),
        ("exit 7", "exit code 7"),
        ("echo nonsense", "the script gave no answer"),
        ("printf '%0100000d' 0 | tr 0 '['", "the script gave no answer"),
        ("echo 3", "the script answered '3'"),
    ],
)
def test_a_device_that_keeps_failing_is_out_of_reach(script, tmp_path, what, message):
    path = script("broken", f"cat >/dev/null\necho x >> {tmp_path}/tries\n{what}")
    with pytest.raises(UnreachableError) as caught:
        read_facts(CommandDevice("cmd:broken", (str(path),)))
    assert str(caught.value) == f"device cmd:broken: {message}"
    assert (tmp_path / "tries").read_text().count("x") == 3


GOOD_FACTS = (
    '{"machine": "aarch64", "system": "Linux", "python": "3.11.2", "onnxruntime": "1.22.0", '
    '"cores": 4, "memory_bytes": null, "providers": ["CPUExecutionProvider"], "packed": true}'
)
GOOD_TIME = '{"fastest": [[0.1, 0.2], [0.1, 0.2]], "variant": [0.1, 0.1], "source": [0.2, 0.2]}'


def answering(script, tmp_path, answer, then=""):
    """A device that answers whatever is asked with one line, and the second question otherwise."""
    (tmp_path / "answer").write_text(answer)
    (tmp_path / "then").write_text(then or answer)
    text = f"cat >/dev/null\ncat {tmp_path}/answer; cp {tmp_path}/then {tmp_path}/answer"
    return CommandDevice("cmd:odd", (str(script("odd", text)),))


ODD = "device cmd:odd: what it answered is not the measuring script's answer: "


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        (GOOD_FACTS, "{}", "'machine' is missing"),
        ('"cores": 4', '"cores": "4"', "'cores' is '4'"),
        ('"onnxruntime": "1.22.0", ', "", "'onnxruntime' is missing"),
        ('["CPUExecutionProvider"]', "[3]", "'providers' is [3]"),
        ('["CPUExecutionProvider"]', "null", "'providers' is 'None'"),
    ],
)
def test_facts_that_are_none(script, tmp_path, good, bad, problem):
    assert read_facts(answering(script, tmp_path, GOOD_FACTS)).cores == 4
    with pytest.raises(UnreachableError) as caught:
        read_facts(answering(script, tmp_path, GOOD_FACTS.replace(good, bad)))
    assert str(caught.value) == ODD + problem


@pytest.mark.parametrize(
    ("time", "memory", "problem"),
    [
        ("{}", "", "'fastest' is missing"),
        (GOOD_TIME.replace("[[0.1, 0.2], ", "["), "", "'fastest' is '[[0.1, 0.2]]'"),
        (GOOD_TIME.replace("[0.2, 0.2]}", "[]}"), "", "'source' is '[]'"),
        (GOOD_TIME.replace("[0.1, 0.1]", "[0.1, NaN]"), "", "'variant' is '[0.1, nan]'"),
        (GOOD_TIME.replace("[0.1, 0.1]", '[0.1, "x"]'), "", "'variant' is \"[0.1, 'x']\""),
        (GOOD_TIME, "{}", "'peak' is missing"),
        (GOOD_TIME, '{"peak": "1 MB"}', "'peak' is '1 MB'"),
        (GOOD_TIME, '{"peak": 0}', "'peak' is '0'"),
    ],
)
def test_a_measurement_that_is_none(models, rows, script, tmp_path, time, memory, problem):
    good = answering(script, tmp_path, GOOD_TIME, '{"peak": 7}')
    found = measure_on(at("cmd:odd"), *models, rows, rounds=2, device=good)
    assert (found.latency.p50, found.latency.ratio, found.memory_bytes) == (100.0, 0.5, 7)
    odd = answering(script, tmp_path, time, memory)
    with pytest.raises(UnreachableError) as caught:
        measure_on(at("cmd:odd"), *models, rows, rounds=2, device=odd)
    assert str(caught.value) == ODD + problem


def test_timings_of_many_models_and_an_opset_that_are_none(script, tmp_path):
    odd = answering(script, tmp_path, '{"fastest": [[1.0]]}')
    with pytest.raises(UnreachableError, match="'typical' is missing"):
        measure_many(at("cmd:odd"), [b""], rounds=1, device=odd)
    with pytest.raises(UnreachableError, match="'peak' is missing"):
        loads_opset(answering(script, tmp_path, "{}"), 17)


def test_a_refused_key_is_not_tried_again(script, tmp_path):
    path = script(
        "ssh", f"echo x >> {tmp_path}/tries; echo 'Host key verification failed.' >&2; exit 255"
    )
    with pytest.raises(UnreachableError, match="Host key verification failed"):
        read_facts(CommandDevice("cmd:box", (str(path),)))
    assert (tmp_path / "tries").read_text().count("x") == 1


def test_a_slow_device_is_out_of_reach(script):
    with pytest.raises(UnreachableError, match=r"no answer within 0\.1 s"):
        read_facts(CommandDevice("cmd:slow", (str(script("slow", "exec sleep 20")),)), timeout=0.1)


def test_a_command_that_is_not_there():
    with pytest.raises(UnreachableError, match="No such file"):
        read_facts(CommandDevice("cmd:x", ("/nowhere/x",)))


def test_a_variant_that_the_device_cannot_run(models, rows, tmp_path):
    path = tmp_path / "bad.onnx"
    model = onnx.load(models[0])
    model.graph.node[0].op_type = "NoSuchOperator"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CompressError, match=r"local cannot run the variant: .*NoSuchOperator"):
        measure_on(TARGET, path, models[1], rows, rounds=2)


FACTS = DeviceFacts("aarch64", "Linux", "3.11.2", "1.22.0", 4, 1_900_000_000)


def test_a_profile_that_the_device_bears_out():
    verify(at("ssh://pi@box", cores=4, memory_bytes=2_000_000_000, threads=4), FACTS)
    verify(at("ssh://pi@box", cores=4), replace(FACTS, cores=None, memory_bytes=None))


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"threads": 8}, "execution.threads is 8, it has 4 cores"),
        ({"cores": 6}, "execution.cores is 6, it has 4"),
        (
            {"runtime_version": ">=1.23"},
            "execution.runtime_version is >=1.23, its onnxruntime is 1.22.0",
        ),
        (
            {"memory_bytes": 4_000_000_000},
            "execution.memory is 4000000000 bytes, it has 1900000000",
        ),
        (
            {"providers": ("CUDAExecutionProvider", "CPUExecutionProvider")},
            "execution.providers has CUDAExecutionProvider, its onnxruntime 1.22.0 has "
            "CPUExecutionProvider",
        ),
        (
            {},
            "execution.profiles has compact, which needs mlflow_compress there: install it, or "
            "set profiles: [portable]",
        ),
    ],
)
def test_a_profile_that_the_device_contradicts(execution, message):
    with pytest.raises(ConfigError) as caught:
        bare = replace(FACTS, providers=("CPUExecutionProvider",), packed=False)
        verify(at("ssh://pi@box", **execution), bare)
    assert str(caught.value) == f"target 'pi' on ssh://pi@box: {message}"


def test_this_machine_may_stand_for_another():
    verify(at("local", cores=6, memory_bytes=4_000_000_000), FACTS)
    with pytest.raises(ConfigError, match="it has 4 cores"):
        verify(at("local", threads=8), FACTS)


def test_this_machine_measures_on_its_processor_unless_it_stands_for_another():
    cuda = ("CUDAExecutionProvider", "CPUExecutionProvider")
    facts = replace(FACTS, providers=cuda)
    with pytest.raises(ConfigError) as caught:
        verify(at("local", providers=cuda), facts)
    assert str(caught.value) == (
        "target 'pi' on local: execution.providers has CUDAExecutionProvider, what is measured "
        "here runs on CPUExecutionProvider; measured_on: 'cmd:env' measures with the profile's "
        "providers"
    )
    verify(at("ssh://pi@box", providers=cuda), facts)
    for described in ({"cores": 6}, {"memory_bytes": 10**9}, {"runtime": "onnxruntime-web"}):
        target = at("local", providers=cuda, **described)
        verify(target, facts)
        assert target.emulated
        assert target.unmeasured_providers == ()


def test_versions_of_the_runtime():
    target = at("ssh://pi@box", runtime_version=">=1.17,<2")
    verify(target, FACTS)
    verify(target, replace(FACTS, onnxruntime="1.23.0.dev20250101"))
    with pytest.raises(ConfigError, match=r"is >=1\.17,<2, its onnxruntime is 1\.16\.3"):
        verify(target, replace(FACTS, onnxruntime="1.16.3"))
    with pytest.raises(ConfigError, match="its onnxruntime is odd"):
        verify(target, replace(FACTS, onnxruntime="odd"))
    with pytest.raises(ConfigError, match=r"is >=1\.23"):
        verify(at("local", runtime_version=">=1.23"), FACTS)
    verify(at("local", runtime_version=">=1.23", cores=4), FACTS)
    keys = {"name": "x", "accuracy": {"min": 0.5}}
    made = load_target(keys | {"execution": {"runtime_version": ">=1.17"}})
    assert made.execution.runtime_version == ">=1.17"
    for bad in ("newest", 1.17):
        with pytest.raises(ConfigError, match=r"must be versions such as '>=1\.17', got"):
            load_target(keys | {"execution": {"runtime_version": bad}})


def test_an_opset_is_tried_on_the_device():
    assert loads_opset(LocalDevice(), 18) == ""
    assert "official support" in loads_opset(LocalDevice(), 99)


def test_a_device_without_onnxruntime_is_told_what_to_install(script, tmp_path):
    path = script(
        "bare",
        f"echo x >> {tmp_path}/tries\n"
        "echo \"ModuleNotFoundError: No module named 'onnxruntime'\" >&2; exit 1",
    )
    with pytest.raises(UnreachableError, match="install numpy and onnxruntime there"):
        read_facts(CommandDevice("cmd:bare", (str(path),)))
    assert (tmp_path / "tries").read_text().count("x") == 1


def test_the_script_stands_alone():
    text = Path(measure_on.__code__.co_filename).with_name("probe.py").read_text()
    imports = [line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))]
    assert set(imports) <= {*sys.stdlib_module_names, "__future__"}
