#pragma once

#include <nixbuild/base/descriptor.hpp>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// The folders of runners, one a plan, as a daemon finds them that did not start them.
namespace nixbuild::sandbox {

/// `[0-9a-zA-Z-]{1,64}`
[[nodiscard]] bool is_plan_id(std::string_view text) noexcept;

/// The plans that have a folder in `run_directory`.
[[nodiscard]] std::vector<std::string> plans_in(const std::filesystem::path& run_directory);

/// A connection to the runner of that folder, or none: it is gone.
[[nodiscard]] UniqueFd connect_to_runner(const std::filesystem::path& folder);

/// How long the runner at the other end has lived, by the clock that counts from the machine's
/// start and that nobody sets; nothing where /proc does not tell.
[[nodiscard]] std::optional<std::chrono::microseconds>
age_of_runner(const UniqueFd& socket) noexcept;

/// Tells a runner to end its build and itself.
void end_runner(const UniqueFd& socket) noexcept;

/// After a runner that has closed its connection without a last word: ends it where it lives on,
/// and removes what it left where it was killed.
void clear_after_runner(const std::filesystem::path& folder,
                        const std::filesystem::path& cgroup) noexcept;

/// Removes the folder of a runner that is gone, and the control group of its emulator with what is
/// still in it. What cannot be removed stays.
void remove_left_behind(const std::filesystem::path& folder, const std::filesystem::path& cgroup);

} // namespace nixbuild::sandbox
