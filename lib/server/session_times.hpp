#pragma once

#include <nixbuild/base/clock.hpp>
#include <nixbuild/model/build.hpp>
#include <nixbuild/model/store_path.hpp>
#include <nixbuild/store/metadata_db.hpp>

#include <cstddef>
#include <cstdint>
#include <map>

namespace nixbuild::server {

/// What a session does around the builds that it asks for, for their records. On the session's
/// strand; costs a look at the clock for each request.
class SessionTimes {
public:
  /// The session begins. The clock outlives it.
  explicit SessionTimes(const Clock& clock);

  [[nodiscard]] std::int64_t now_us() const;

  /// Protocol and account are known.
  void greeted();
  /// A question was answered between `begin_us` and now.
  void asked(std::int64_t begin_us);
  /// Paths came between `begin_us` and now.
  void uploaded(std::int64_t begin_us);

  /// What goes into the record of a build that is asked for now. The builds of one graph get the
  /// same; questions and uploads behind them belong to the next ones.
  [[nodiscard]] store::SessionSpans before_build();
  /// Whoever is sent outputs of `result` is sent what build `number` has made. Of builds that made
  /// no record (0) nothing is kept.
  void built(std::int64_t number, const model::BuildResult& result);
  void sent(const model::StorePath& path, std::int64_t begin_us);

  /// What has been sent of which build, once.
  [[nodiscard]] std::map<std::int64_t, store::TimeSpan> take_sent();

  /// Outputs that are kept in mind at most.
  static constexpr std::size_t kMostOutputs = 20'000;

private:
  void note(store::TimeSpan& span, std::int64_t begin_us);
  void begin_anew();

  const Clock& clock_;
  store::SessionSpans spans_;
  bool given_ = false; ///< a build has the spans that there are
  std::map<model::StorePath, std::int64_t> builds_;
  std::map<std::int64_t, store::TimeSpan> sent_;
};

} // namespace nixbuild::server
