#pragma once

#include <nixbuild/base/digest.hpp>
#include <nixbuild/model/store_path.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nixbuild::model {

/// Numbers as on the wire. Source: protocol facts 2.5.
enum class BuildStatus : std::uint8_t {
  Built = 0,
  Substituted = 1,
  AlreadyValid = 2,
  PermanentFailure = 3,
  InputRejected = 4,
  OutputRejected = 5,
  TransientFailure = 6,
  CachedFailure = 7,
  TimedOut = 8,
  MiscFailure = 9,
  DependencyFailed = 10,
  LogLimitExceeded = 11,
  NotDeterministic = 12,
  ResolvesToAlreadyValid = 13,
  NoSubstituters = 14,
};

[[nodiscard]] NIXBUILD_API bool is_success(BuildStatus status) noexcept;
/// `Built`, `TimedOut`, …
[[nodiscard]] NIXBUILD_API std::string_view name_of(BuildStatus status) noexcept;

/// What a client asks for with a build. Absent: the client's protocol version does not say.
struct BuildOptions {
  std::chrono::seconds max_silent_time{0};    ///< 0: unlimited
  std::chrono::seconds timeout{0};            ///< wall clock; 0: unlimited
  std::optional<std::uint64_t> max_log_bytes; ///< 0: unlimited
  std::optional<std::uint32_t> repeats;
  std::optional<bool> enforce_determinism;
  std::optional<bool> keep_failed;

  bool operator==(const BuildOptions&) const = default;
};

/// One output of a successful build.
struct Realisation {
  StorePath path;
  std::vector<std::string> signatures;

  bool operator==(const Realisation&) const = default;
};

/// What a signature of a realisation is made over, for Nix up to 2.34. `derivation` is the hash
/// that names the output's derivation. Source: protocol facts 4.9.
[[nodiscard]] NIXBUILD_API std::string
realisation_fingerprint(const Hash& derivation, std::string_view output, const StorePath& path);

struct BuildResult {
  BuildStatus status = BuildStatus::MiscFailure;
  std::string error; ///< empty on success
  std::uint64_t times_built = 0;
  bool non_deterministic = false;
  std::int64_t start_time = 0; ///< seconds since 1970
  std::int64_t stop_time = 0;
  std::optional<std::chrono::microseconds> cpu_user;
  std::optional<std::chrono::microseconds> cpu_system;
  std::map<std::string, Realisation> outputs; ///< by output name; empty on failure

  bool operator==(const BuildResult&) const = default;
};

} // namespace nixbuild::model
