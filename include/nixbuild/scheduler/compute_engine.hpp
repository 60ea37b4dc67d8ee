#pragma once

#include <nixbuild/base/api.hpp>

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

/// Who may run where. The scheduler asks a ComputeEngine for leases of machine capacity and never
/// starts a process itself; engines are pure state machines, so that the embedded one, a simulated
/// one and a cluster's adapter are interchangeable.
namespace nixbuild::scheduler {

/// Chosen by whoever asks; never used again for another lease.
using LeaseId = std::uint64_t;

struct Capacity {
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0;

  bool operator==(const Capacity&) const = default;
};

struct LeaseRequest {
  LeaseId id = 0;
  Capacity capacity;
  std::string platform;           ///< `x86_64-linux`
  std::set<std::string> features; ///< all of them are needed
};

/// What an engine has decided since it was last asked.
struct LeaseGranted {
  LeaseId id = 0;
  std::string node; ///< where; `local` for the embedded engine
};

struct LeaseRefused {
  LeaseId id = 0;
  std::string code;    ///< `scheduler.platform`, `scheduler.features`, `scheduler.too-big`
  std::string message; ///< names what is missing
};

struct LeaseDecisions {
  std::vector<LeaseGranted> granted;
  std::vector<LeaseRefused> refused;
};

/// Port. Not thread safe: driven from one strand.
class ComputeEngine {
public:
  virtual ~ComputeEngine() = default;
  virtual void request(LeaseRequest request) = 0;
  /// Gives a granted lease back, or withdraws one that waits. Unknown ids are ignored (a late
  /// message of an old attempt changes nothing).
  virtual void release(LeaseId id) = 0;
  /// Decisions made since the last call.
  [[nodiscard]] virtual LeaseDecisions take_decisions() = 0;
};

struct LocalEngineSettings {
  Capacity capacity;               ///< what all leases together may use
  std::set<std::string> platforms; ///< platforms that this machine runs
  std::set<std::string> features;  ///< system features it offers
};

/// The embedded engine: first come, first served, on one machine's cpus and memory. A request that
/// can never fit is refused at once; one that does not fit now waits, and later ones wait behind
/// it.
class NIXBUILD_API LocalEngine final : public ComputeEngine {
public:
  explicit LocalEngine(LocalEngineSettings settings);

  void request(LeaseRequest request) override;
  void release(LeaseId id) override;
  [[nodiscard]] LeaseDecisions take_decisions() override;

  [[nodiscard]] Capacity in_use() const noexcept { return in_use_; }

  [[nodiscard]] std::size_t waiting() const noexcept { return queue_.size(); }

  /// Why a request can never be granted, or nothing.
  [[nodiscard]] std::optional<LeaseRefused> objection(const LeaseRequest& request) const;

private:
  void grant_what_fits();

  LocalEngineSettings settings_;
  Capacity in_use_;
  std::deque<LeaseRequest> queue_;
  std::map<LeaseId, Capacity> held_;
  LeaseDecisions decisions_;
};

} // namespace nixbuild::scheduler
