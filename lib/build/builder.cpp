#include "attempt.hpp"

#include <nixbuild/build/builder.hpp>

namespace nixbuild::build {

Builder::Builder(Parts parts, BuilderSettings settings) : parts_(parts), settings_(settings) {}

aio::Task<model::BuildResult> Builder::run(BuildRequest request,
                                           std::shared_ptr<LogFeed> feed,
                                           std::shared_ptr<BuildControl> control,
                                           std::function<void(std::int64_t)> on_number) {
  auto attempt = std::make_unique<Attempt>(
      parts_, settings_, std::move(request), std::move(feed), std::move(control));
  co_return co_await attempt->run(on_number);
}

} // namespace nixbuild::build
