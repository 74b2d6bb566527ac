"""How much memory a process can get."""

import pytest

from summer_prep import resources as machine


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_what_the_control_groups_of_the_process_leave(version, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    groups = {name: (tmp_path / name, *names) for name, (_, *names) in machine._GROUPS.items()}
    monkeypatch.setattr(machine, "_GROUPS", groups)
    controller = "memory" if version == 1 else ""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(f"9:cpu:/else\n4:{controller}:/slurm/job_7\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 3 kB\n")
    root, limit, in_use, inactive = groups[controller]
    assert machine.available_bytes() == 3 * 1024  # of the system: there is no group
    for path, limit_bytes in (("", "9e15"), ("slurm", "max"), ("slurm/job_7", "1000")):
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path / limit).write_text(limit_bytes)
        (root / path / in_use).write_text("700")
        (root / path / "memory.stat").write_text(f"anon 3\n{inactive} 200\n")
    assert machine.available_bytes() == 1000 - 700 + 200
    (root / "slurm" / limit).write_text("600")  # of all jobs together
    assert machine.available_bytes() == 600 - 700 + 200


@pytest.mark.parametrize(
    ("allowed", "quotas", "usable"),
    [
        (128, ("max 100000", "max 100000"), 128),
        (1, ("max 100000", "max 100000"), 1),  # a cpuset, or taskset
        (128, ("250000 100000", "max 100000"), 3),
        (128, ("max 100000", "400000 100000"), 4),  # of all jobs together
        (2, ("50000 100000", "nonsense"), 1),
    ],
)
def test_processors_are_those_that_the_process_may_use(allowed, quotas, usable, tmp_path, monkeypatch):
    name = "process_cpu_count" if hasattr(machine.os, "process_cpu_count") else "sched_getaffinity"
    monkeypatch.setattr(machine.os, name, (lambda: allowed) if "cpu" in name else lambda _pid: set(range(allowed)))
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "_GROUPS", {"": (tmp_path, *machine._GROUPS[""][1:])})
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/slurm/job_7\n")
    for path, quota in zip(("slurm/job_7", "slurm"), quotas, strict=True):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "cpu.max").write_text(f"{quota}\n")
    assert machine.usable_processors() == usable
