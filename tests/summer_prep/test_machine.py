"""How much memory a process can get."""

import pytest

from summer_prep import machine


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_what_the_control_groups_of_the_process_leave(version, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_PROCESS", tmp_path)
    groups = {name: (tmp_path / name, *names) for name, (_, *names) in machine._GROUPS.items()}
    monkeypatch.setattr(machine, "_GROUPS", groups)
    controller = "memory" if version == 1 else ""
    (tmp_path / "cgroup").write_text(f"9:cpu:/else\n4:{controller}:/slurm/job_7\n")
    root, limit, in_use, inactive = groups[controller]
    assert machine._available_in_group() == float("inf")  # there is none
    for path, limit_bytes in (("", "9e15"), ("slurm", "max"), ("slurm/job_7", "1000")):
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path / limit).write_text(limit_bytes)
        (root / path / in_use).write_text("700")
        (root / path / "memory.stat").write_text(f"anon 3\n{inactive} 200\n")
    assert machine._available_in_group() == 1000 - 700 + 200
    assert machine.available_bytes() == 500
    (root / "slurm" / limit).write_text("600")  # of all jobs together
    assert machine._available_in_group() == 100
