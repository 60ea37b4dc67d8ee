#include <nixbuild/base/bytes.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/scheduler/history.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

namespace nixbuild::scheduler {

namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint64_t kMostCounted = 1'048'576;

std::optional<std::uint64_t> counted(const std::set<std::string>& features,
                                     std::string_view prefix) {
  std::optional<std::uint64_t> most;
  for (const auto& feature : features) {
    if (!feature.starts_with(prefix)) {
      continue;
    }
    const std::string_view digits = std::string_view(feature).substr(prefix.size());
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc{} || end != digits.data() + digits.size() || value < 1 ||
        value > kMostCounted) {
      throw Error(Reaction::Unsupported,
                  "scheduler.feature-syntax",
                  fmt::format("system feature '{}' needs a number from 1 to {} after the colon",
                              feature.substr(0, 80),
                              kMostCounted));
    }
    most = std::max(most.value_or(0), value);
  }
  return most;
}

std::uint64_t rounded_up(std::uint64_t bytes) {
  const std::uint64_t step = bytes <= 2 * kGiB ? 256 * kMiB : std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

std::uint64_t enlarged(std::uint64_t peak) {
  return peak + peak / 4 + 256 * kMiB;
}

void check_bounds(const SizeBounds& bounds) {
  if (bounds.min_cpus > bounds.max_cpus || bounds.min_memory > bounds.max_memory ||
      bounds.max_cpus == 0 || bounds.max_memory == 0) {
    throw Error(Reaction::Unsupported,
                "scheduler.bounds",
                fmt::format("the settings allow no size: cpus from {} to {}, memory from {} to {} "
                            "MiB",
                            bounds.min_cpus,
                            bounds.max_cpus,
                            bounds.min_memory / kMiB,
                            bounds.max_memory / kMiB));
  }
}

[[noreturn]] void too_much(std::string_view what, std::uint64_t asked, std::uint64_t most) {
  throw Error(Reaction::Unsupported,
              "scheduler.bounds",
              fmt::format("the derivation asks for {} by a system feature, the settings allow at "
                          "most {} {}",
                          asked,
                          most,
                          what));
}

void choose_cpus(const std::set<std::string>& features,
                 const SizeBounds& bounds,
                 const std::optional<Prediction>& prediction,
                 BuildSize& size) {
  size.needed_cpus = std::max(1U, bounds.min_cpus);
  std::string why;
  unsigned wanted = 0;
  if (const auto asked = counted(features, "cpu:")) {
    if (*asked > bounds.max_cpus) {
      too_much("cpus", *asked, bounds.max_cpus);
    }
    wanted = static_cast<unsigned>(*asked);
    size.needed_cpus = std::max(size.needed_cpus, wanted);
    why = fmt::format("feature cpu:{}", *asked);
  } else if (features.contains("big-parallel")) {
    wanted = bounds.max_cpus;
    why = "feature big-parallel";
  } else if (prediction && prediction->busy_cpus) {
    const double busy = *prediction->busy_cpus;
    const double held = std::max(1U, prediction->cpus_held);
    const double next = busy >= 0.75 * held ? 2 * held : std::ceil(busy * 1.25);
    wanted = static_cast<unsigned>(std::clamp(next, 1.0, static_cast<double>(kMostCounted)));
    why = fmt::format(
        "history: {} kept {:.1f} of {} busy", prediction->basis, busy, prediction->cpus_held);
  } else {
    wanted = bounds.default_cpus;
    why = "default";
  }
  size.cpus = std::clamp(wanted, size.needed_cpus, bounds.max_cpus);
  size.why = fmt::format("{} cpus: {}", size.cpus, why);
}

void choose_memory(const std::set<std::string>& features,
                   const SizeBounds& bounds,
                   const std::optional<Prediction>& prediction,
                   std::uint64_t memory_floor,
                   BuildSize& size) {
  size.needed_memory = std::max(bounds.min_memory, std::min(memory_floor, bounds.max_memory));
  std::string why;
  std::uint64_t wanted = 0;
  if (const auto asked = counted(features, "mem:")) {
    if (*asked * kGiB > bounds.max_memory) {
      too_much("GiB of memory", *asked, bounds.max_memory / kGiB);
    }
    wanted = *asked * kGiB;
    size.needed_memory = std::max(size.needed_memory, wanted);
    why = fmt::format("feature mem:{}", *asked);
  } else if (prediction && (prediction->peak_memory_bytes || prediction->exceeded_memory > 0)) {
    wanted = std::max(prediction->peak_memory_bytes ? enlarged(*prediction->peak_memory_bytes) : 0,
                      2 * prediction->exceeded_memory);
    why = fmt::format("history: {} {}",
                      prediction->basis,
                      prediction->exceeded_memory > 0
                          ? fmt::format("ran out of {} MiB", prediction->exceeded_memory / kMiB)
                          : fmt::format("used {} MiB", *prediction->peak_memory_bytes / kMiB));
  } else {
    wanted = bounds.default_memory_per_cpu * size.cpus;
    why = "default";
  }
  if (memory_floor > wanted) {
    wanted = memory_floor;
    why = "it ran out of memory before";
  }
  // What was measured is rounded, so that sizes are few. What somebody has set is taken as it is:
  // rounded up, it might not fit as often as it was meant to.
  const bool as_set = why == "default";
  wanted = std::clamp(wanted, size.needed_memory, bounds.max_memory);
  size.memory_bytes = as_set ? wanted : std::min(rounded_up(wanted), bounds.max_memory);
  size.why += fmt::format("; {} MiB: {}", size.memory_bytes / kMiB, why);
}

} // namespace

PackageName split_name(std::string_view derivation_name) {
  for (std::size_t i = 0; i + 1 < derivation_name.size(); ++i) {
    const char next = derivation_name[i + 1];
    const bool letter = (next >= 'a' && next <= 'z') || (next >= 'A' && next <= 'Z');
    if (derivation_name[i] == '-' && !letter) {
      return {std::string(derivation_name.substr(0, i)),
              std::string(derivation_name.substr(i + 1))};
    }
  }
  return {std::string(derivation_name), {}};
}

BuildSize size_of_build(const std::set<std::string>& features,
                        const SizeBounds& bounds,
                        const std::optional<Prediction>& prediction,
                        std::uint64_t memory_floor) {
  check_bounds(bounds);
  BuildSize size;
  choose_cpus(features, bounds, prediction, size);
  choose_memory(features, bounds, prediction, memory_floor, size);
  return size;
}

} // namespace nixbuild::scheduler
