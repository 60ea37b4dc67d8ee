#pragma once

#include <nixbuild/scheduler/request.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

/// How big a build is made, and what earlier builds teach about it.
namespace nixbuild::scheduler {

struct PackageName {
  std::string package;
  std::string version; ///< may be empty

  bool operator==(const PackageName&) const = default;
};

/// `hello-2.12.1` is package `hello`, version `2.12.1`: the version begins after the first dash
/// that is not followed by a letter. Without one the version is empty.
[[nodiscard]] NIXBUILD_API PackageName split_name(std::string_view derivation_name);

/// One finished run, as the caller's database keeps it. Only runs that succeeded, failed by their
/// builder, or ran out of memory teach anything.
struct BuildRecord {
  std::string account;
  std::string package;
  std::string version;
  std::string platform;
  unsigned cpus = 0;                   ///< held
  std::uint64_t memory_bytes = 0;      ///< held
  std::uint64_t peak_memory_bytes = 0; ///< 0: not measured
  CpuTime cpu_time{0};                 ///< used; 0: not measured
  Milliseconds duration{0};
  Outcome outcome = Outcome::Succeeded;

  bool operator==(const BuildRecord&) const = default;
};

/// What similar builds say about a coming one; absent figures are unknown.
struct Prediction {
  std::optional<std::uint64_t> peak_memory_bytes; ///< the most of the most similar runs
  std::optional<double> busy_cpus;                ///< cpu time over duration, of the latest
  unsigned cpus_held = 0;                         ///< when `busy_cpus` was measured
  std::optional<Milliseconds> duration;           ///< of the latest that succeeded
  std::uint64_t exceeded_memory = 0; ///< held by a similar run that ran out of it; 0: none did
  std::string basis;                 ///< `hello-2.12.1 of the same account`, for explanations
};

/// The last runs by package and platform: at most `per_package` of each, at most `limit` in all;
/// the packages not seen for longest are forgotten first. Memory: about 200 bytes a record.
class NIXBUILD_API History {
public:
  explicit History(std::size_t limit = 20'000, std::size_t per_package = 8);
  ~History();
  History(History&&) noexcept;
  History& operator=(History&&) noexcept;

  void add(const BuildRecord& record);

  /// From the runs of the same package and platform. Most similar are those of the same version,
  /// and among these those of the same account; of equally similar ones the latest counts.
  [[nodiscard]] std::optional<Prediction>
  predict(std::string_view account, const PackageName& name, std::string_view platform) const;

  [[nodiscard]] std::size_t size() const noexcept;

private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

struct BuildSize {
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0;
  unsigned needed_cpus = 0;        ///< it must not be made smaller than this
  std::uint64_t needed_memory = 0; ///< it must not be made smaller than this
  std::string why;                 ///< `4 cpus: history (…); 2,048 MiB: …`
};

/// The size of a build.
///
/// Cpus: `cpu:N` if asked for; else `max_cpus` for `big-parallel`; else by history: a run that kept
/// three quarters of its cpus busy gets twice as many, another one gets what it kept busy and a
/// quarter more; else `default_cpus`. Then clamped to the bounds.
///
/// Memory: `mem:N` GiB if asked for; else by history: the peak and a quarter more and 256 MiB, and
/// at least twice what a similar run ran out of; else `default_memory_per_cpu` for each cpu. Then
/// clamped to the bounds, not below `memory_floor`, and rounded up to one of 8 steps between
/// powers of two (256 MiB steps below 2 GiB), so that the queue knows few different sizes; never
/// above `max_memory`.
///
/// Errors (Unsupported): `scheduler.feature-syntax` for `mem:` or `cpu:` without a number from 1 to
/// 1,048,576; `scheduler.bounds` where a feature asks for more than the bounds allow, or the
/// bounds contradict each other.
[[nodiscard]] NIXBUILD_API BuildSize size_of_build(const std::set<std::string>& features,
                                                   const SizeBounds& bounds,
                                                   const std::optional<Prediction>& prediction,
                                                   std::uint64_t memory_floor = 0);

} // namespace nixbuild::scheduler
