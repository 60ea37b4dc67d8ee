"""Whether /dev/kvm can be used is found out as a build would find it, and what is not so is no build's fault."""

from lab import (
    LOST,
    asking_for,
    device_for_root_only,
    doctor,
    lab_server,
    module_absent,
    said_to,
    server_to_be,
    told_of_loss,
    watch,
)

BODY = "$busybox/bin/busybox sleep 100; echo built > $out"


def test_doctor_says_that_kvm_works(scratch):
    level, says = doctor(server_to_be(scratch))["accelerator"]
    assert level == "ok" and "KVM works" in says


def emulated(seen, _):
    return "tcg" in seen.values()


def sees_no_kvm(server):
    level, says = doctor(server)["accelerator"]
    return level != "ok" and "KVM works" not in says and "/dev/kvm" in says, (level, says)


def test_device_that_only_root_may_open_is_found_by_doctor(scratch):
    """Emulators are not root."""
    with device_for_root_only():
        good, said = sees_no_kvm(server_to_be(scratch))
    assert good and "Permission denied" in said[1], said


def test_device_that_only_root_may_open_is_not_used(scratch, small):
    with lab_server(scratch) as server, device_for_root_only(), asking_for(server, small, "closed", BODY) as asking:
        seen = watch(server, asking, 90, lambda *now: emulated(*now) or told_of_loss(*now))
    assert seen == ["tcg"], said_to(asking)
    assert not told_of_loss(seen, asking.lines), said_to(asking)


def test_device_that_closes_later_costs_no_machine_after_machine(scratch, small):
    """No other machine cures it: no build waits for one, and the operator is told."""
    with lab_server(scratch) as server:
        with asking_for(server, small, "before", "echo built > $out") as asking:
            asking.end()
            assert asking.process.returncode == 0, said_to(asking)
        with device_for_root_only(), asking_for(server, small, "after", BODY) as asking:
            seen = watch(server, asking, 40, lambda *now: emulated(*now) or told_of_loss(*now))
            good, said = sees_no_kvm(server)
    assert not any(LOST in line for line in asking.lines), said_to(asking)
    assert good, said
    # Either emulation goes on with it, or whoever asked is told why nothing does.
    assert "tcg" in seen or any("kvm" in line.lower() for line in asking.lines), said_to(asking)


def test_absent_module_is_found_and_builds_are_emulated(scratch, small):
    with lab_server(scratch) as server, module_absent():
        good, said = sees_no_kvm(server)
        with asking_for(server, small, "absent", BODY) as asking:
            seen = watch(server, asking, 90, lambda *now: emulated(*now) or told_of_loss(*now))
    assert good, said
    assert seen == ["tcg"] and not told_of_loss(seen, asking.lines), said_to(asking)
