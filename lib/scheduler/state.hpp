#pragma once

#include "queue.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace nixbuild::scheduler {

/// A refusal: why a build can never run.
struct Objection {
  std::string code;
  std::string message;
};

struct Scheduler::State {
  explicit State(SchedulerSettings given) : settings(given), history(settings.history_limit) {}

  // --- scheduler.cpp: events
  void enter(MonotonicTime at);
  void add_build(BuildRequest& request);
  void make_ready(Build& build);
  void adopt(Build& build, const RunningAttempt& running);
  void dispatch();
  bool dispatch_one(Pool& pool);
  void start(Build& build, std::uint32_t node);
  void wake_delayed();

  // --- graph.cpp
  /// The list in an order in which every build stands before its dependencies. Error:
  /// `scheduler.cycle`.
  [[nodiscard]] static std::vector<std::size_t>
  dependants_first(const std::vector<BuildRequest>& builds);
  void connect(Build& build, const std::vector<BuildId>& dependencies);
  /// After something about the dependants of these has changed.
  void refresh_critical_paths(std::vector<Build*> touched);

  // --- outcomes.cpp
  void end(Build& build, Verdict verdict, std::string code, std::string message);
  void vacate(Build& build, bool billed);
  void attempt_over(Build& build, Outcome outcome, const Measurements& measured);
  void lost(Build& build);
  void out_of_memory(Build& build);
  void learn_from(Build& build, Outcome outcome, const Measurements& measured);

  // --- fair_share.cpp
  Share& share_of(Account& account, std::string_view platform);
  Key& key_of(Share& share, const std::string& name);
  void enqueue(Build& build);
  void dequeue(Build& build);
  /// The build that the share starts next. `fitting`: of those a node may have room for;
  /// `quota`: of those its quota allows.
  [[nodiscard]] Build* choose(const Share& share, bool fitting, bool quota) const;
  [[nodiscard]] const Key*
  choose_key(const Share& share, Lane lane, bool fitting, bool quota) const;
  void set_pass(Share& share, double pass);
  void charge_start(Build& build);
  void correct_charge(Build& build);
  /// Moves the counters that decide turns. Before the build leaves its queue.
  void count_turns(Build& build, const Build* first, std::uint32_t node);
  [[nodiscard]] double charge_of(const Build& build, Milliseconds duration) const;

  // --- quotas.cpp
  Account& account_of(const std::string& name);
  [[nodiscard]] bool
  quota_allows(const Account& account, unsigned cpus, std::uint64_t memory_bytes) const;
  /// Which of its sizes the share may start, and so where it stands.
  void refresh(Share& share);
  void refresh(Account& account);
  void release_hold(Account& account);
  [[nodiscard]] std::optional<QuotaState> quota_state(const Build& build) const;

  // --- placement.cpp
  Needs& needs_of(const std::string& platform, const std::set<std::string>& features);
  void drop_needs(Needs& needs);
  SizeClass& class_of(Pool& pool, Needs& needs, unsigned cpus, std::uint64_t memory_bytes);
  void drop_class(Pool& pool, SizeClass& size);
  /// Sets `build.size`, from history and bounds, within the quota and what nodes have.
  [[nodiscard]] std::optional<Objection> fit_size(Build& build);
  [[nodiscard]] std::optional<Objection> fit_nodes(Build& build);
  [[nodiscard]] Objection unplaceable(const Build& build) const;
  [[nodiscard]] std::uint64_t most_memory(const Build& build) const;
  [[nodiscard]] bool fits(const SizeClass& size, std::uint32_t node) const noexcept;
  [[nodiscard]] std::uint32_t best_node(const SizeClass& size, const std::string& avoid) const;
  /// The node has more room than before.
  void room_on(std::uint32_t node);
  void open_for(std::uint32_t node);
  void occupy(Build& build, std::uint32_t node);
  void update_room(std::uint32_t node);
  void reserve_for(Share& share, Build& build);
  void release_reservation(Share& share);
  void resize_queued(const std::set<const Account*>* accounts);

  // --- nodes.cpp
  std::uint32_t slot_of(const std::string& name);
  [[nodiscard]] std::uint32_t find_node(const std::string& name) const;
  std::uint32_t kind_of(const NodeSpec& spec);
  void apply_gates(Node& node) const;
  [[nodiscard]] std::string closed_because(const Node& node) const;
  void forget_node(std::uint32_t slot);

  // --- explain.cpp
  [[nodiscard]] Explanation explain(const Build& build) const;
  void explain_queued(const Build& build, Explanation& text) const;
  [[nodiscard]] WaitingFor explain_room(const Build& build, std::string& detail) const;
  void estimate_start(const Build& build, Explanation& text) const;

  SchedulerSettings settings;
  History history;
  MonotonicTime now{};
  bool draining = false;
  std::unordered_map<BuildId, std::unique_ptr<Build>> builds;
  std::map<std::string, std::unique_ptr<Account>> accounts;
  std::map<std::string, std::unique_ptr<Pool>> pools;
  std::size_t turn = 0; ///< which pool comes first
  std::uint32_t share_serial = 0;
  std::uint64_t class_serial = 0;
  std::map<std::pair<std::string, std::set<std::string>>, std::unique_ptr<Needs>> needs;
  std::map<std::tuple<const Pool*, const Needs*, unsigned, std::uint64_t>, SizeClass*> sizes;
  std::vector<NodeKind> kinds;
  std::vector<Node> nodes;
  std::vector<NodeRoom> rooms; ///< beside `nodes`
  std::map<std::string, std::uint32_t> node_slots;
  std::vector<std::uint32_t> free_slots;
  std::set<std::pair<MonotonicTime, BuildId>> delayed;
  SchedulerCounts counts;
  std::vector<Decision> decisions;
};

} // namespace nixbuild::scheduler
