#pragma once

#include <nixbuild/scheduler/scheduler.hpp>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

/// The queue's records. Accounts own shares (one a pool), shares own keys, keys own the waiting
/// builds by lane and size. Sizes know which shares wait for them.
namespace nixbuild::scheduler {

constexpr std::uint32_t kNoNode = 0xffffffff;

struct Build;
struct Share;
struct Account;

/// Platform and features that a build needs. One for all builds with the same.
struct Needs {
  std::string platform;
  std::set<std::string> features;
  std::vector<char> offered; ///< by node kind
  std::size_t users = 0;     ///< builds and sizes; forgotten when none is left
};

/// A place in the order of passes.
struct ByPass {
  double pass = 0;
  std::uint32_t share = 0; ///< serial number: ties go to the older one
  Share* owner = nullptr;

  bool operator<(const ByPass& other) const noexcept {
    return pass != other.pass ? pass < other.pass : share < other.share;
  }
};

/// A place in the order of one key. The first starts first.
struct Rank {
  std::int64_t critical_ms = 0;
  int priority = 0;
  MonotonicTime submitted;
  BuildId id = 0;

  bool operator<(const Rank& other) const noexcept {
    if (critical_ms != other.critical_ms) {
      return critical_ms > other.critical_ms;
    }
    if (priority != other.priority) {
      return priority > other.priority;
    }
    return submitted != other.submitted ? submitted < other.submitted : id < other.id;
  }
};

struct Age {
  MonotonicTime submitted;
  BuildId id = 0;

  auto operator<=>(const Age&) const = default;
};

/// All waiting builds that need the same things in the same amount, in one pool. As long as no
/// node has room for one of them, none of them is looked at.
struct SizeClass {
  std::uint64_t serial = 0;
  Needs* needs = nullptr;
  unsigned cpus = 0;
  std::uint64_t memory_bytes = 0;
  std::size_t builds = 0;
  bool open = true; ///< a node may have room
  /// The only node that may have room, or kNoNode: any may.
  std::uint32_t hint = kNoNode;
  std::size_t place = 0;   ///< in the pool's list of open or of closed sizes
  std::set<ByPass> shares; ///< that wait for it and may start one by their quota
};

/// The builds of one size in one share.
struct ShareClass {
  SizeClass* size = nullptr;
  std::size_t builds = 0;
  bool eligible = false; ///< by quota; then, and only then, it stands in size->shares
};

struct ClassQueue {
  ShareClass* of = nullptr;
  std::map<Rank, Build*> by_rank;
  std::map<Age, Build*> by_age;
};

struct KeyLane {
  std::map<std::uint64_t, ClassQueue> classes; ///< by serial of the size
  unsigned since_oldest = 0;                   ///< starts since the oldest one was started
};

struct Key {
  std::string name;
  double weight = 1;
  double pass = 0;
  KeyLane lanes[2];
};

struct Pool {
  std::string name;
  double virtual_time = 0;
  std::set<ByPass> order; ///< shares that have something to start and hold no reservation
  std::map<std::uint64_t, std::unique_ptr<SizeClass>> classes;
  std::vector<SizeClass*> lists[2]; ///< the same: closed ones, open ones; in no order

  void list(SizeClass& size) {
    auto& list = lists[size.open ? 1 : 0];
    size.place = list.size();
    list.push_back(&size);
  }

  void unlist(SizeClass& size) {
    auto& list = lists[size.open ? 1 : 0];
    list[size.place] = list.back();
    list[size.place]->place = size.place;
    list.pop_back();
  }

  void set_open(SizeClass& size, bool open) {
    unlist(size);
    size.open = open;
    list(size);
  }
};

/// One account in one pool.
struct Share {
  std::uint32_t serial = 0;
  Account* account = nullptr;
  Pool* pool = nullptr;
  double pass = 0;
  bool active = false; ///< some class is eligible
  double key_time = 0;
  std::map<std::string, std::unique_ptr<Key>> keys;
  std::vector<Key*> waiting_keys[2]; ///< with builds in that lane
  std::map<std::uint64_t, std::unique_ptr<ShareClass>> classes;
  unsigned interactive_streak = 0; ///< interactive starts in a row while batch waited
  unsigned overtaken = 0;          ///< since its first build was started
  unsigned quota_overtaken = 0;
  Build* reserved = nullptr;
  std::uint32_t reserved_node = kNoNode;
};

struct Account {
  std::string name;
  double weight = 1;
  Quota quota;
  std::map<std::string, double> key_weights;
  AccountUsage usage;
  std::map<std::string, std::unique_ptr<Share>> shares; ///< by pool
  Build* held_for = nullptr;                            ///< only its size may start: quota hold
};

struct Build {
  BuildId id = 0;
  Account* account = nullptr;
  Share* share = nullptr;
  Key* key = nullptr;
  Needs* needs = nullptr;
  std::set<std::string> tags;
  std::string name;
  std::set<std::string> features; ///< as asked for, sizes with them
  SizeBounds bounds;
  Lane lane = Lane::Batch;
  int priority = 0;
  unsigned max_restarts = 0;
  unsigned restarts = 0;
  AttemptNumber attempt = 0;
  std::uint64_t memory_floor = 0;
  MonotonicTime submitted;
  Milliseconds expected{0};
  std::int64_t behind_ms = 0; ///< of dependants that are not known yet
  std::int64_t critical_ms = 0;
  std::vector<Build*> dependencies; ///< open ones
  std::vector<Build*> dependants;

  BuildPhase phase = BuildPhase::Dependencies;
  BuildSize size;
  SizeClass* size_class = nullptr; ///< while queued
  MonotonicTime not_before;        ///< while delayed
  std::uint32_t node = kNoNode;    ///< while running
  std::string avoid;               ///< node on which it was lost last
  MonotonicTime started;
  double charged = 0; ///< slot seconds
  CpuTime committed{0};
  bool beside = false; ///< started on a node after that was reserved for another

  [[nodiscard]] Rank rank() const noexcept { return {critical_ms, priority, submitted, id}; }

  [[nodiscard]] Age age() const noexcept { return {submitted, id}; }

  [[nodiscard]] bool holds_capacity() const noexcept {
    return phase == BuildPhase::Running || phase == BuildPhase::Stopping;
  }
};

/// What a fit test looks at, in one array for all nodes.
struct NodeRoom {
  std::int64_t free_memory = 0; ///< below zero after a shrink or an adoption
  std::int64_t free_cpus = 0;
  std::int64_t beside_memory = 0; ///< what others may still take where it is reserved
  std::int64_t beside_cpus = 0;
  double per_cpu = 0;    ///< 1 / cpus
  double per_memory = 0; ///< 1 / memory
  std::uint32_t kind = 0;
  bool usable = false; ///< known, not draining, gate open
  bool reserved = false;
};

struct Node {
  NodeSpec spec;
  bool known = false;     ///< the slot is taken
  bool announced = false; ///< by set_node; else only adopted runs are there
  bool draining = false;
  bool cpu_closed = false;
  bool memory_closed = false;
  bool memory_full_closed = false;
  bool io_closed = false;
  bool disk_closed = false;
  NodeHealth health;
  std::string hold;
  std::unordered_set<Build*> running;
  unsigned cpus_used = 0;
  std::uint64_t memory_used = 0;
  Build* reserved_for = nullptr;
};

/// Nodes with the same platforms and features.
struct NodeKind {
  std::set<std::string> platforms;
  std::set<std::string> features;
};

} // namespace nixbuild::scheduler
