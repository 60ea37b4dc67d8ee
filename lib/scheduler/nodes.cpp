#include "state.hpp"

#include <fmt/format.h>

namespace nixbuild::scheduler {

namespace {

constexpr double kReopen = 0.8;

void gate(bool& closed, double figure, double limit) {
  closed = figure >= limit || (closed && figure > limit * kReopen);
}

} // namespace

std::uint32_t Scheduler::State::find_node(const std::string& name) const {
  const auto found = node_slots.find(name);
  return found == node_slots.end() ? kNoNode : found->second;
}

std::uint32_t Scheduler::State::slot_of(const std::string& name) {
  if (const auto found = find_node(name); found != kNoNode) {
    return found;
  }
  std::uint32_t slot = 0;
  if (free_slots.empty()) {
    slot = static_cast<std::uint32_t>(nodes.size());
    nodes.emplace_back();
    rooms.emplace_back();
  } else {
    slot = free_slots.back();
    free_slots.pop_back();
  }
  nodes[slot] = Node{};
  rooms[slot] = NodeRoom{};
  nodes[slot].known = true;
  nodes[slot].spec.name = name;
  rooms[slot].kind = kind_of(nodes[slot].spec);
  node_slots.emplace(name, slot);
  return slot;
}

void Scheduler::State::apply_gates(Node& node) const {
  const auto& limits = settings.gates;
  const auto& health = node.health;
  gate(node.cpu_closed, health.cpu_some, limits.cpu_some);
  gate(node.memory_closed, health.memory_some, limits.memory_some);
  gate(node.memory_full_closed, health.memory_full, limits.memory_full);
  gate(node.io_closed, health.io_full, limits.io_full);
  const auto disk = limits.free_disk_bytes;
  node.disk_closed = health.free_disk_bytes < disk ||
                     (node.disk_closed && health.free_disk_bytes < disk + disk / 4);
}

std::string Scheduler::State::closed_because(const Node& node) const {
  const auto& limits = settings.gates;
  const auto& health = node.health;
  auto pressure = [](std::string_view what, double figure, double limit) {
    return fmt::format("{} pressure {:.1f} % (limit {:.1f} %)", what, figure, limit);
  };
  if (!node.hold.empty()) {
    return node.hold;
  }
  if (node.disk_closed) {
    return fmt::format("{} MiB of disk are free (limit {} MiB)",
                       health.free_disk_bytes >> 20,
                       limits.free_disk_bytes >> 20);
  }
  if (node.memory_full_closed) {
    return pressure("full memory", health.memory_full, limits.memory_full);
  }
  if (node.memory_closed) {
    return pressure("memory", health.memory_some, limits.memory_some);
  }
  if (node.io_closed) {
    return pressure("full io", health.io_full, limits.io_full);
  }
  if (node.cpu_closed) {
    return pressure("cpu", health.cpu_some, limits.cpu_some);
  }
  return {};
}

void Scheduler::State::forget_node(std::uint32_t slot) {
  node_slots.erase(nodes[slot].spec.name);
  nodes[slot] = Node{};
  rooms[slot] = NodeRoom{};
  free_slots.push_back(slot);
  for (auto& [name, pool] : pools) {
    for (auto& [serial, size] : pool->classes) {
      if (size->hint == slot) {
        size->hint = kNoNode; // the slot may be taken by another node
      }
    }
  }
}

void Scheduler::set_node(const NodeSpec& spec, MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  const auto slot = state.slot_of(spec.name);
  auto& node = state.nodes[slot];
  if (node.reserved_for != nullptr) {
    state.release_reservation(*node.reserved_for->share);
  }
  node.spec = spec;
  node.announced = true;
  node.draining = false;
  state.rooms[slot].kind = state.kind_of(spec);
  state.update_room(slot);
  state.resize_queued(nullptr);
  state.room_on(slot);
  state.dispatch();
}

void Scheduler::drain_node(const std::string& name, MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  const auto slot = state.find_node(name);
  if (slot == kNoNode) {
    return;
  }
  auto& node = state.nodes[slot];
  node.draining = true;
  if (node.reserved_for != nullptr) {
    state.release_reservation(*node.reserved_for->share);
  }
  state.update_room(slot);
  state.dispatch();
}

void Scheduler::lose_node(const std::string& name, MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  const auto slot = state.find_node(name);
  if (slot == kNoNode) {
    return;
  }
  auto& node = state.nodes[slot];
  if (node.reserved_for != nullptr) {
    state.release_reservation(*node.reserved_for->share);
  }
  node.draining = true;
  state.update_room(slot);
  std::map<BuildId, Build*> ran;
  for (Build* build : node.running) {
    ran.emplace(build->id, build);
  }
  // First off the node, so that a verdict on one of them finds the node gone for the others.
  state.nodes[slot].announced = false;
  for (const auto& [id, build] : ran) {
    state.attempt_over(*build, Outcome::Lost, {});
  }
  state.forget_node(slot);
  state.resize_queued(nullptr);
  state.dispatch();
}

void Scheduler::set_health(const std::string& name, const NodeHealth& health, MonotonicTime now) {
  auto& state = *state_;
  state.enter(now);
  const auto slot = state.find_node(name);
  if (slot == kNoNode) {
    return;
  }
  state.nodes[slot].health = health;
  state.apply_gates(state.nodes[slot]);
  const bool was_usable = state.rooms[slot].usable;
  state.update_room(slot);
  if (!state.rooms[slot].usable && state.nodes[slot].reserved_for != nullptr) {
    state.release_reservation(*state.nodes[slot].reserved_for->share);
  }
  if (!was_usable && state.rooms[slot].usable) {
    state.room_on(slot);
  }
  state.dispatch();
}

void Scheduler::hold_node(const std::string& name, const std::string& reason, MonotonicTime now) {
  const auto slot = state_->find_node(name);
  if (slot != kNoNode) {
    state_->nodes[slot].hold = reason;
    const auto health = state_->nodes[slot].health;
    set_health(name, health, now);
  }
}

std::vector<NodeState> Scheduler::nodes() const {
  std::vector<NodeState> all;
  for (const auto& [name, slot] : state_->node_slots) {
    const auto& node = state_->nodes[slot];
    NodeState one;
    one.spec = node.spec;
    one.cpus_used = node.cpus_used;
    one.memory_used = node.memory_used;
    one.running = node.running.size();
    one.draining = node.draining;
    one.closed_because = state_->closed_because(node);
    if (node.reserved_for != nullptr) {
      one.reserved_for = node.reserved_for->id;
    }
    all.push_back(std::move(one));
  }
  return all;
}

} // namespace nixbuild::scheduler
