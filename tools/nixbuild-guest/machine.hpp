#pragma once

#include <nixbuild/base/descriptor.hpp>

#include <chrono>
#include <string>
#include <string_view>

/// The machine as process 1 finds it: kernel file systems, modules, ports, disks.
namespace nixbuild::guest {

/// Leaves the initramfs for an empty tmpfs with /proc, /sys, /dev and /cgroup in it, so that a
/// builder's namespace can pivot its root. Returns the initramfs.
[[nodiscard]] UniqueFd enter_memory_root();

/// Loads what `modules/order` names. What is really missing shows as soon as it is needed, so that
/// one that fails is no error: returns each with why, empty when there is none.
[[nodiscard]] std::string load_modules(int initramfs);

/// Opens the virtio port of that name as soon as it is there and the host is connected. Error
/// `guest.port` after 20 s.
[[nodiscard]] UniqueFd open_port(std::string_view name, int flags);

/// Device file of the virtio disk with that serial number; empty when there is none.
[[nodiscard]] std::string find_disk(std::string_view serial);

/// Settings that a distribution makes on every host and builders may have come to know.
void tune_kernel();

[[nodiscard]] std::chrono::microseconds time_since_boot() noexcept;
void say_to_kernel(std::string_view text) noexcept;
[[noreturn]] void power_off() noexcept;

} // namespace nixbuild::guest
