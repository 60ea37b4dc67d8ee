#include "attempt.hpp"
#include "steps.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/build/builder.hpp>

#include <chrono>
#include <utility>

namespace nixbuild::build {

Builder::Builder(Parts parts, BuilderSettings settings) : parts_(parts), settings_(settings) {}

aio::Task<model::BuildResult> Builder::run(BuildRequest request,
                                           std::shared_ptr<LogFeed> feed,
                                           std::shared_ptr<BuildControl> control,
                                           std::function<void(std::int64_t)> on_number,
                                           std::shared_ptr<BuildInputs> inputs) {
  auto attempt = std::make_unique<Attempt>(parts_,
                                           settings_,
                                           std::move(request),
                                           std::move(feed),
                                           std::move(control),
                                           std::move(inputs));
  co_return co_await attempt->run(on_number);
}

aio::Task<model::BuildResult> Builder::resume(store::OpenBuild open,
                                              BuildRequest request,
                                              std::shared_ptr<LogFeed> feed,
                                              std::shared_ptr<BuildControl> control,
                                              std::function<aio::Task<bool>()> wanted,
                                              std::shared_ptr<BuildInputs> inputs) {
  auto attempt = std::make_unique<Attempt>(parts_,
                                           settings_,
                                           std::move(request),
                                           std::move(feed),
                                           std::move(control),
                                           std::move(inputs));
  co_return co_await attempt->resume(std::move(open), wanted);
}

BuildRequest Builder::request_of(const store::OpenBuild& open) const {
  return parse_request(parts_.store.dir(), open.record.account, open.request);
}

std::shared_ptr<BuildInputs> Builder::resolve(const BuildRequest& request) {
  return build::resolve(parts_.store, request);
}

std::optional<model::BuildResult> Builder::find_valid(const BuildRequest& request,
                                                      BuildInputs& inputs) {
  auto known = known_outputs(parts_.store, request, inputs.lease);
  if (!known) {
    return std::nullopt;
  }
  model::BuildResult result;
  result.status = model::BuildStatus::AlreadyValid;
  result.outputs = std::move(*known);
  return result;
}

void Builder::give_up(const store::OpenBuild& open, const std::string& why) {
  auto record = open.record;
  record.status = model::BuildStatus::TransientFailure;
  record.error = why;
  record.stopped_us =
      std::chrono::duration_cast<std::chrono::microseconds>(parts_.clock.wall().time_since_epoch())
          .count();
  record.log_bytes = parts_.logs.size(record.id);
  if (parts_.store.db().end_build(record, {}, nullptr)) {
    parts_.logs.finish(record.id);
  }
}

} // namespace nixbuild::build
