#include "state.hpp"

#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/error.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <vector>

namespace nixbuild::scheduler {

namespace {

constexpr double kElsewhere = 1000; ///< above any score of fit

bool builds_for(const std::set<std::string>& platforms, const std::string& platform) {
  return platform == kEveryPlatform || platforms.contains(platform);
}

bool offers(const NodeKind& kind, const Needs& needs) {
  return builds_for(kind.platforms, needs.platform) && std::includes(kind.features.begin(),
                                                                     kind.features.end(),
                                                                     needs.features.begin(),
                                                                     needs.features.end());
}

} // namespace

Needs& Scheduler::State::needs_of(const std::string& platform,
                                  const std::set<std::string>& features) {
  std::set<std::string> looked_for;
  for (const auto& feature : features) {
    if (!feature.starts_with("mem:") && !feature.starts_with("cpu:")) {
      looked_for.insert(feature);
    }
  }
  auto& slot = needs[{platform, looked_for}];
  if (!slot) {
    slot = std::make_unique<Needs>();
    slot->platform = platform;
    slot->features = std::move(looked_for);
    for (const auto& kind : kinds) {
      slot->offered.push_back(offers(kind, *slot) ? 1 : 0);
    }
  }
  ++slot->users;
  return *slot;
}

void Scheduler::State::drop_needs(Needs& dropped) {
  if (--dropped.users == 0) {
    needs.erase(std::pair{dropped.platform, dropped.features});
  }
}

std::uint32_t Scheduler::State::kind_of(const NodeSpec& spec) {
  for (std::uint32_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i].platforms == spec.platforms && kinds[i].features == spec.features) {
      return i;
    }
  }
  kinds.push_back(NodeKind{spec.platforms, spec.features});
  for (auto& [name, one] : needs) {
    one->offered.push_back(offers(kinds.back(), *one) ? 1 : 0);
  }
  return static_cast<std::uint32_t>(kinds.size() - 1);
}

SizeClass&
Scheduler::State::class_of(Pool& pool, Needs& wanted, unsigned cpus, std::uint64_t memory_bytes) {
  auto& known = sizes[{&pool, &wanted, cpus, memory_bytes}];
  if (known == nullptr) {
    auto fresh = std::make_unique<SizeClass>();
    fresh->serial = ++class_serial;
    fresh->needs = &wanted;
    fresh->cpus = cpus;
    fresh->memory_bytes = memory_bytes;
    ++wanted.users;
    known = fresh.get();
    pool.list(*known);
    pool.classes.emplace(fresh->serial, std::move(fresh));
  }
  return *known;
}

void Scheduler::State::drop_class(Pool& pool, SizeClass& size) {
  auto& wanted = *size.needs;
  pool.unlist(size);
  sizes.erase({&pool, &wanted, size.cpus, size.memory_bytes});
  pool.classes.erase(size.serial);
  drop_needs(wanted);
}

std::optional<Objection> Scheduler::State::fit_size(Build& build) {
  try {
    const auto prediction =
        history.predict(build.account->name, split_name(build.name), build.needs->platform);
    build.size = size_of_build(build.features, build.bounds, prediction, build.memory_floor);
  } catch (const Error& error) {
    return Objection{error.code(), error.message()};
  }
  const auto& quota = build.account->quota;
  auto& size = build.size;
  if ((quota.cpus && size.needed_cpus > *quota.cpus) ||
      (quota.memory_bytes && size.needed_memory > *quota.memory_bytes) ||
      (quota.running && *quota.running == 0)) {
    return Objection{
        "scheduler.quota",
        fmt::format("it needs at least {} cpus and {} MiB, the quota of account '{}' is {} builds, "
                    "{} cpus and {} MiB at one time",
                    size.needed_cpus,
                    size.needed_memory / kMiB,
                    build.account->name,
                    quota.running ? std::to_string(*quota.running) : "any number of",
                    quota.cpus ? std::to_string(*quota.cpus) : "any number of",
                    quota.memory_bytes ? std::to_string(*quota.memory_bytes / kMiB) : "any")};
  }
  if (quota.cpus && size.cpus > *quota.cpus) {
    size.cpus = *quota.cpus;
    size.why += fmt::format("; {} cpus by the account's quota", size.cpus);
  }
  if (quota.memory_bytes && size.memory_bytes > *quota.memory_bytes) {
    size.memory_bytes = *quota.memory_bytes;
    size.why += fmt::format("; {} MiB by the account's quota", size.memory_bytes / kMiB);
  }
  return fit_nodes(build);
}

std::optional<Objection> Scheduler::State::fit_nodes(Build& build) {
  auto& size = build.size;
  unsigned cpus = 0;
  std::uint64_t memory = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const auto& node = nodes[i];
    if (!node.announced || build.needs->offered[rooms[i].kind] == 0 ||
        node.spec.cpus < size.needed_cpus || node.spec.memory_bytes < size.needed_memory) {
      continue;
    }
    const auto some_cpus = std::min(size.cpus, node.spec.cpus);
    const auto some_memory = std::min(size.memory_bytes, node.spec.memory_bytes);
    if (std::pair(some_memory, some_cpus) > std::pair(memory, cpus)) {
      memory = some_memory;
      cpus = some_cpus;
    }
    if (cpus == size.cpus && memory == size.memory_bytes) {
      return std::nullopt;
    }
  }
  if (cpus == 0) {
    return unplaceable(build);
  }
  size.cpus = cpus;
  size.memory_bytes = memory;
  size.why += fmt::format("; {} cpus and {} MiB by the largest node", cpus, memory / kMiB);
  return std::nullopt;
}

Objection Scheduler::State::unplaceable(const Build& build) const {
  std::set<std::string> platforms;
  std::optional<std::vector<std::string>> lacking; // on the node that lacks least
  unsigned cpus = 0;
  std::uint64_t memory = 0;
  bool offered = false;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const auto& node = nodes[i];
    if (!node.announced) {
      continue;
    }
    platforms.insert(node.spec.platforms.begin(), node.spec.platforms.end());
    if (builds_for(node.spec.platforms, build.needs->platform)) {
      std::vector<std::string> here;
      std::set_difference(build.needs->features.begin(),
                          build.needs->features.end(),
                          node.spec.features.begin(),
                          node.spec.features.end(),
                          std::back_inserter(here));
      if (!lacking || here.size() < lacking->size()) {
        lacking = std::move(here);
      }
    }
    if (build.needs->offered[rooms[i].kind] != 0) {
      offered = true;
      cpus = std::max(cpus, node.spec.cpus);
      memory = std::max(memory, node.spec.memory_bytes);
    }
  }
  if (!builds_for(platforms, build.needs->platform)) {
    return {"scheduler.platform",
            fmt::format("platform '{}' is not offered; this builder runs {}",
                        build.needs->platform,
                        fmt::join(platforms, ", "))};
  }
  if (!offered) {
    return {
        "scheduler.features",
        lacking->size() == 1
            ? fmt::format("this builder does not offer the system feature '{}'", lacking->front())
            : fmt::format("this builder does not offer the system features '{}'",
                          fmt::join(*lacking, "', '"))};
  }
  return {"scheduler.too-big",
          fmt::format("at least {} cpus and {} MiB are needed; nodes have up to {} cpus and {} MiB",
                      build.size.needed_cpus,
                      build.size.needed_memory / kMiB,
                      cpus,
                      memory / kMiB)};
}

std::uint64_t Scheduler::State::most_memory(const Build& build) const {
  std::uint64_t most = 0;
  bool known = false;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const auto& node = nodes[i];
    if (node.announced && build.needs->offered[rooms[i].kind] != 0 &&
        node.spec.cpus >= build.size.needed_cpus) {
      known = true;
      most = std::max(most, node.spec.memory_bytes);
    }
  }
  // Where no node is known at present, one may come back.
  most = known ? std::min(most, build.bounds.max_memory) : build.bounds.max_memory;
  return std::min(most, build.account->quota.memory_bytes.value_or(most));
}

bool Scheduler::State::fits(const SizeClass& size, std::uint32_t node) const noexcept {
  const auto& room = rooms[node];
  const auto cpus = static_cast<std::int64_t>(size.cpus);
  const auto memory = static_cast<std::int64_t>(size.memory_bytes);
  return room.usable && room.free_cpus >= cpus && room.free_memory >= memory &&
         (!room.reserved || (room.beside_cpus >= cpus && room.beside_memory >= memory)) &&
         size.needs->offered[room.kind] != 0;
}

std::uint32_t Scheduler::State::best_node(const SizeClass& size, const std::string& avoid) const {
  if (size.hint != kNoNode) {
    return fits(size, size.hint) ? size.hint : kNoNode;
  }
  std::uint32_t best = kNoNode;
  double best_score = 0;
  for (std::uint32_t i = 0; i < rooms.size(); ++i) {
    if (!fits(size, i)) {
      continue;
    }
    const auto& room = rooms[i];
    double score =
        static_cast<double>(room.free_cpus - size.cpus) * room.per_cpu +
        static_cast<double>(room.free_memory - static_cast<std::int64_t>(size.memory_bytes)) *
            room.per_memory;
    if (!avoid.empty() && nodes[i].spec.name == avoid) {
      score += kElsewhere;
    }
    if (best == kNoNode || score < best_score) {
      best = i;
      best_score = score;
    }
  }
  return best;
}

void Scheduler::State::open_for(std::uint32_t node) {
  for (auto& [name, pool] : pools) {
    for (SizeClass* size : pool->lists[1]) {
      if (size->hint != kNoNode && size->hint != node && fits(*size, node)) {
        size->hint = kNoNode;
      }
    }
    auto& closed = pool->lists[0];
    for (std::size_t i = closed.size(); i-- > 0;) { // the last one takes a vacant place
      SizeClass& size = *closed[i];
      if (fits(size, node)) {
        size.hint = node;
        pool->set_open(size, true);
      }
    }
  }
}

void Scheduler::State::room_on(std::uint32_t node) {
  Build* const waiting = nodes[node].reserved_for;
  const auto& room = rooms[node];
  if (waiting != nullptr && !draining && room.usable && room.free_cpus >= waiting->size.cpus &&
      room.free_memory >= static_cast<std::int64_t>(waiting->size.memory_bytes)) {
    start(*waiting, node);
  }
  open_for(node);
}

void Scheduler::State::update_room(std::uint32_t slot) {
  const auto& node = nodes[slot];
  auto& room = rooms[slot];
  const auto cpus = static_cast<std::int64_t>(node.announced ? node.spec.cpus : 0);
  const auto memory = static_cast<std::int64_t>(node.announced ? node.spec.memory_bytes : 0);
  room.free_cpus = cpus - node.cpus_used;
  room.free_memory = memory - static_cast<std::int64_t>(node.memory_used);
  room.per_cpu = 1.0 / static_cast<double>(std::max<std::int64_t>(1, cpus));
  room.per_memory = 1.0 / static_cast<double>(std::max<std::int64_t>(1, memory));
  room.usable = node.known && node.announced && !node.draining && closed_because(node).empty();
  room.reserved = node.reserved_for != nullptr;
  if (room.reserved) {
    room.beside_cpus = cpus - node.reserved_for->size.cpus;
    room.beside_memory = memory - static_cast<std::int64_t>(node.reserved_for->size.memory_bytes);
    for (const Build* run : node.running) {
      if (run->beside) {
        room.beside_cpus -= run->size.cpus;
        room.beside_memory -= static_cast<std::int64_t>(run->size.memory_bytes);
      }
    }
  }
}

void Scheduler::State::reserve_for(Share& share, Build& build) {
  std::size_t announced = 0;
  std::uint32_t best = kNoNode;
  double best_share = 0;
  for (std::uint32_t i = 0; i < nodes.size(); ++i) {
    const auto& node = nodes[i];
    announced += node.announced ? 1 : 0;
    if (!rooms[i].usable || rooms[i].reserved || build.needs->offered[rooms[i].kind] == 0 ||
        node.spec.cpus < build.size.cpus || node.spec.memory_bytes < build.size.memory_bytes) {
      continue;
    }
    const double part = std::min(static_cast<double>(rooms[i].free_cpus) / build.size.cpus,
                                 static_cast<double>(rooms[i].free_memory) /
                                     static_cast<double>(build.size.memory_bytes));
    if (best == kNoNode || part > best_share) {
      best = i;
      best_share = part;
    }
  }
  if (best == kNoNode || counts.reservations >= std::max<std::size_t>(1, announced / 2)) {
    return;
  }
  share.pool->order.erase(ByPass{share.pass, share.serial, &share});
  share.reserved = &build;
  share.reserved_node = best;
  nodes[best].reserved_for = &build;
  ++counts.reservations;
  for (Build* run : nodes[best].running) {
    run->beside = false;
  }
  update_room(best);
}

void Scheduler::State::release_reservation(Share& share) {
  const auto node = share.reserved_node;
  share.reserved = nullptr;
  share.reserved_node = kNoNode;
  nodes[node].reserved_for = nullptr;
  --counts.reservations;
  if (share.active) {
    share.pool->order.insert(ByPass{share.pass, share.serial, &share});
  }
  update_room(node);
  open_for(node);
}

void Scheduler::State::occupy(Build& build, std::uint32_t slot) {
  auto& node = nodes[slot];
  build.node = slot;
  build.beside = node.reserved_for != nullptr;
  node.running.insert(&build);
  node.cpus_used += build.size.cpus;
  node.memory_used += build.size.memory_bytes;
  if (build.beside) {
    rooms[slot].beside_cpus -= build.size.cpus;
    rooms[slot].beside_memory -= static_cast<std::int64_t>(build.size.memory_bytes);
  }
  rooms[slot].free_cpus -= build.size.cpus;
  rooms[slot].free_memory -= static_cast<std::int64_t>(build.size.memory_bytes);
  auto& usage = build.account->usage;
  ++usage.running;
  usage.cpus += build.size.cpus;
  usage.memory_bytes += build.size.memory_bytes;
  build.committed = build.expected * build.size.cpus;
  usage.committed += build.committed;
  ++counts.running;
}

void Scheduler::State::resize_queued(const std::set<const Account*>* of) {
  // Sizes that no node holds (any more), or those of the accounts given.
  std::vector<Build*> moved;
  for (auto& [name, account] : accounts) {
    for (auto& [pool, share] : account->shares) {
      for (auto& [key_name, key] : share->keys) {
        for (auto& lane : key->lanes) {
          for (auto& [serial, queue] : lane.classes) {
            const auto& size = *queue.of->size;
            bool holds = of == nullptr ? false : !of->contains(account.get());
            for (std::uint32_t i = 0; of == nullptr && !holds && i < nodes.size(); ++i) {
              holds = nodes[i].announced && size.needs->offered[rooms[i].kind] != 0 &&
                      nodes[i].spec.cpus >= size.cpus &&
                      nodes[i].spec.memory_bytes >= size.memory_bytes;
            }
            if (!holds) {
              for (auto& [rank, build] : queue.by_rank) {
                moved.push_back(build);
              }
            }
          }
        }
      }
    }
  }
  for (Build* build : moved) {
    dequeue(*build);
    build->phase = BuildPhase::Dependencies; // make_ready counts from here
    ++counts.blocked;
    make_ready(*build);
  }
}

} // namespace nixbuild::scheduler
