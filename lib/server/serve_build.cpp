#include "graph_run.hpp"
#include "sent_derivation.hpp"
#include "serve_state.hpp"
#include "told_log.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;
namespace serve = protocol::serve;

namespace {

/// The log goes to the client's standard error as it is: Nix keeps it and shows its last lines by
/// itself.
class RawLog final : public BuildListener {
public:
  RawLog(std::shared_ptr<SharedWriter> err, Log& log) : err_(std::move(err)), log_(log) {}

  aio::Task<void> begin() override { co_return; }

  aio::Task<void> take_log(std::string bytes) override {
    if (deaf_ || bytes.empty()) {
      co_return;
    }
    fresh_line_ = bytes.back() == '\n';
    builder_spoke_ = builder_spoke_ || !is_own(bytes);
    try {
      co_await err_->write(std::move(bytes));
    } catch (const Error& error) {
      // A client that does not take its log still wants its result.
      deaf_ = true;
      log_.info(fmt::format("log no longer sent: {}", error.what()));
    }
  }

  /// What comes next begins a line: the client's error, or another log.
  aio::Task<void> end(const model::BuildResult&) override {
    std::string end = fresh_line_ ? std::string() : std::string("\n");
    co_await take_log(std::move(end));
  }

  [[nodiscard]] std::string explanation(std::string_view derivation) const override {
    return builder_spoke_ ? full_log(derivation) : std::string();
  }

  aio::Task<void> say_failure(std::string) override { co_return; }

private:
  /// Whether there is nothing but lines of the server's.
  static bool is_own(std::string_view bytes) {
    while (bytes.starts_with(kOwnLine) && bytes.find('\n') != std::string_view::npos) {
      bytes.remove_prefix(bytes.find('\n') + 1);
    }
    return bytes.empty();
  }

  std::shared_ptr<SharedWriter> err_;
  Log& log_;
  bool deaf_ = false;
  bool fresh_line_ = true;
  bool builder_spoke_ = false;
};

} // namespace

aio::Task<void> ServeState::build_derivation(serve::BuildDerivation request) {
  const auto hashes = model::realisation_hashes(parts_.store.dir(), request.derivation);
  model::BuildResult result;
  try {
    result = co_await build_one(request);
  } catch (const Error& error) {
    // The reply has a place for what keeps it from being built.
    if (error.reaction() == Reaction::Disconnected) {
      throw;
    }
    result.status = model::BuildStatus::MiscFailure;
    result.error = error.what();
    parts_.log.info(result.error);
  }
  serve::write_build_result(reply_, parts_.store.dir(), version_, result, hashes);
  co_await reply();
}

aio::Task<model::BuildResult> ServeState::build_one(serve::BuildDerivation& request) {
  lease_.add(request.derivation.input_sources);
  for (const auto& [name, output] : request.derivation.outputs) {
    if (output.path) {
      lease_.add(*output.path);
    }
  }
  auto wanted = caller_.order(request.path, std::move(request.derivation), request.options);
  if (auto refusal = co_await judge(parts_, wanted)) {
    co_return std::move(*refusal);
  }
  auto attachment = co_await parts_.builds.ask(std::move(wanted));
  const HangUpWatch client(co_await asio::this_coro::executor, in_, err_->shared_stream());
  RawLog log(err_, parts_.log);
  const bool never = false;
  const BuildAsker asker{caller_, lease_, client, never, emulation_told_};
  auto result = co_await follow_build(parts_, asker, std::move(attachment), log);
  co_await log.end(result);
  if (!model::is_success(result.status)) {
    result.error += log.explanation(parts_.store.dir().print(request.path));
  }
  co_return result;
}

aio::Task<void> ServeState::build_paths(serve::BuildPaths request) {
  std::vector<TargetResult> results;
  std::string failure;
  try {
    results = co_await build_all(request);
  } catch (const Error& error) {
    if (error.reaction() == Reaction::Disconnected) {
      throw;
    }
    failure = error.what();
  }
  const auto worst = std::find_if(results.begin(), results.end(), [](const TargetResult& target) {
    return !model::is_success(target.result.status);
  });
  if (!failure.empty()) {
    parts_.log.info(failure);
    serve::write_build_paths_reply(reply_, model::BuildStatus::MiscFailure, failure);
  } else if (worst == results.end()) {
    serve::write_build_paths_reply(reply_, model::BuildStatus::Built, {});
  } else {
    serve::write_build_paths_reply(reply_, worst->result.status, worst->result.error);
  }
  co_await reply();
}

aio::Task<std::vector<TargetResult>> ServeState::build_all(serve::BuildPaths& request) {
  std::vector<protocol::DerivedPath> targets;
  for (const auto& text : request.targets) {
    targets.push_back(
        protocol::parse_derived_path(parts_.store.dir(), text, protocol::DerivedPathForm::Bare));
  }
  GraphOrder order;
  order.emulation_told = emulation_told_;
  order.options = request.options;
  order.listen = [err = err_, &log = parts_.log](const model::StorePath&) {
    return std::make_unique<RawLog>(err, log);
  };
  const auto strand = co_await asio::this_coro::executor;
  auto client = std::make_shared<HangUpWatch>(strand, in_, err_->shared_stream());
  co_return co_await build_targets(
      parts_, caller_, lease_, std::move(targets), std::move(order), std::move(client));
}

} // namespace nixbuild::server
