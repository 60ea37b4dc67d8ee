#include "session_times.hpp"

#include <utility>

namespace nixbuild::server {

SessionTimes::SessionTimes(const Clock& clock) : clock_(clock) {
  spans_.connect.begin_us = now_us();
  spans_.connect.end_us = spans_.connect.begin_us;
}

std::int64_t SessionTimes::now_us() const {
  return clock_.wall().time_since_epoch().count();
}

void SessionTimes::note(store::TimeSpan& span, std::int64_t begin_us) {
  if (span == store::TimeSpan()) {
    span.begin_us = begin_us;
  }
  span.end_us = now_us();
}

void SessionTimes::begin_anew() {
  if (std::exchange(given_, false)) {
    spans_ = {};
  }
}

void SessionTimes::greeted() {
  spans_.connect.end_us = now_us();
}

void SessionTimes::asked(std::int64_t begin_us) {
  begin_anew();
  note(spans_.query, begin_us);
}

void SessionTimes::uploaded(std::int64_t begin_us) {
  begin_anew();
  note(spans_.upload, begin_us);
}

store::SessionSpans SessionTimes::before_build() {
  given_ = true;
  return spans_;
}

void SessionTimes::built(std::int64_t number, const model::BuildResult& result) {
  if (number == 0) {
    return;
  }
  for (const auto& [name, output] : result.outputs) {
    if (builds_.size() < kMostOutputs) {
      builds_.insert_or_assign(output.path, number);
    }
  }
}

void SessionTimes::sent(const model::StorePath& path, std::int64_t begin_us) {
  const auto build = builds_.find(path);
  if (build != builds_.end()) {
    note(sent_[build->second], begin_us);
  }
}

std::map<std::int64_t, store::TimeSpan> SessionTimes::take_sent() {
  return std::exchange(sent_, {});
}

} // namespace nixbuild::server
