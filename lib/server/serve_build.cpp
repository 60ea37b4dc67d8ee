#include "graph_run.hpp"
#include "sent_derivation.hpp"
#include "serve_state.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;
namespace serve = protocol::serve;

namespace {

/// The log goes to the client's standard error as it is.
class RawLog final : public BuildListener {
public:
  RawLog(std::shared_ptr<SharedWriter> err, Log& log) : err_(std::move(err)), log_(log) {}

  aio::Task<void> begin() override { co_return; }

  aio::Task<void> take_log(std::string bytes) override {
    if (deaf_) {
      co_return;
    }
    try {
      co_await err_->write(std::move(bytes));
    } catch (const Error& error) {
      // A client that does not take its log still wants its result.
      deaf_ = true;
      log_.info(fmt::format("log no longer sent: {}", error.what()));
    }
  }

  aio::Task<void> end(const model::BuildResult&) override { co_return; }

private:
  std::shared_ptr<SharedWriter> err_;
  Log& log_;
  bool deaf_ = false;
};

} // namespace

aio::Task<void> ServeState::build_derivation(serve::BuildDerivation request) {
  lease_.add(request.derivation.input_sources);
  for (const auto& [name, output] : request.derivation.outputs) {
    if (output.path) {
      lease_.add(*output.path);
    }
  }
  const auto hashes = model::realisation_hashes(parts_.store.dir(), request.derivation);
  auto wanted = caller_.order(request.path, std::move(request.derivation), request.options);
  if (const auto refusal = co_await judge(parts_, wanted)) {
    serve::write_build_result(reply_, parts_.store.dir(), version_, *refusal, hashes);
    co_await reply();
    co_return;
  }
  auto attachment = co_await parts_.builds.ask(std::move(wanted));
  const HangUpWatch client(co_await asio::this_coro::executor, in_, err_->shared_stream());
  RawLog log(err_, parts_.log);
  const bool never = false;
  const BuildAsker asker{caller_, lease_, client, never};
  const auto result = co_await follow_build(parts_, asker, std::move(attachment), log);
  serve::write_build_result(reply_, parts_.store.dir(), version_, result, hashes);
  co_await reply();
}

aio::Task<void> ServeState::build_paths(serve::BuildPaths request) {
  std::vector<protocol::DerivedPath> targets;
  for (const auto& text : request.targets) {
    targets.push_back(
        protocol::parse_derived_path(parts_.store.dir(), text, protocol::DerivedPathForm::Bare));
  }
  GraphOrder order;
  order.options = request.options;
  order.listen = [err = err_, &log = parts_.log](const model::StorePath&) {
    return std::make_unique<RawLog>(err, log);
  };
  const auto strand = co_await asio::this_coro::executor;
  auto client = std::make_shared<HangUpWatch>(strand, in_, err_->shared_stream());
  const auto results = co_await build_targets(
      parts_, caller_, lease_, std::move(targets), std::move(order), std::move(client));
  const auto worst = std::find_if(results.begin(), results.end(), [](const TargetResult& target) {
    return !model::is_success(target.result.status);
  });
  if (worst == results.end()) {
    serve::write_build_paths_reply(reply_, model::BuildStatus::Built, {});
  } else {
    serve::write_build_paths_reply(reply_, worst->result.status, worst->result.error);
  }
  co_await reply();
}

} // namespace nixbuild::server
