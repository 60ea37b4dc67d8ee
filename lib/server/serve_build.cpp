#include "serve_state.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

namespace nixbuild::server {

namespace asio = boost::asio;
namespace serve = protocol::serve;

namespace {

constexpr std::size_t kLogPiece = 64 * kKiB;
constexpr std::uint64_t kDerivationBytes = 64 * kMiB;

/// What the watcher of the client's input and the session share; both run on one strand.
struct ClientWatch {
  bool gone = false;
  bool ended = false; ///< the watcher is done; its signal must not be used any more
  asio::cancellation_signal stop;
};

aio::Task<void> watch_client(std::shared_ptr<ClientWatch> watch,
                             std::shared_ptr<aio::ByteStream> in,
                             std::shared_ptr<aio::ByteStream> err,
                             build::LogFeed* feed) {
  try {
    co_await in->wait_hang_up();
    watch->gone = true;
    feed->event().notify();
    err->cancel();
  } catch (const std::exception&) {
    // Told to stop: the build has ended first.
  }
  watch->ended = true;
}

} // namespace

aio::Task<void> ServeState::follow_log(build::Attachment& attachment, const bool& client_gone) {
  auto& feed = attachment.feed();
  std::uint64_t offset = 0;
  bool deaf = false;
  for (;;) {
    if (client_gone) {
      throw Error(Reaction::Disconnected, "serve.client-gone", "the client left during a build");
    }
    auto piece = feed.read(offset);
    if (piece.missed) {
      const auto number = attachment.number();
      auto work = [this, number, offset] {
        return parts_.logs.read(number, offset, kLogPiece);
      };
      auto stored = co_await parts_.pool.run(std::move(work));
      piece.bytes = std::move(stored).value_or(std::string());
      if (piece.bytes.empty()) {
        offset = feed.size(); // lost from the store: go on with what is held
        continue;
      }
    }
    offset += piece.bytes.size();
    if (!piece.bytes.empty() && !deaf) {
      try {
        co_await err_->write_all(bytes_of(piece.bytes), limits_.deaf);
      } catch (const Error& error) {
        // A client that does not take its log still wants its result.
        deaf = true;
        parts_.log.info(fmt::format("log no longer sent: {}", error.what()));
      }
    } else if (piece.closed) {
      co_return;
    } else if (piece.bytes.empty()) {
      co_await feed.event().wait(piece.count);
    }
  }
}

aio::Task<model::BuildResult> ServeState::follow(build::Attachment attachment) {
  auto watch = std::make_shared<ClientWatch>();
  auto watcher = watch_client(watch, in_, err_, &attachment.feed());
  const auto here = co_await asio::this_coro::executor;
  auto ignore = [watch](std::exception_ptr) {
  };
  asio::co_spawn(here,
                 std::move(watcher),
                 asio::bind_cancellation_slot(watch->stop.slot(), std::move(ignore)));
  std::exception_ptr failure;
  model::BuildResult result;
  try {
    co_await follow_log(attachment, watch->gone);
    result = co_await attachment.result();
  } catch (...) {
    failure = std::current_exception();
  }
  if (!watch->ended) {
    watch->stop.emit(asio::cancellation_type::terminal);
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
  co_return result;
}

aio::Task<void> ServeState::build_derivation(serve::BuildDerivation request) {
  lease_.add(request.derivation.input_sources);
  for (const auto& [name, output] : request.derivation.outputs) {
    if (output.path) {
      lease_.add(*output.path);
    }
  }
  const auto hashes = model::realisation_hashes(parts_.store.dir(), request.derivation);
  build::BuildRequest wanted{
      account_, request.path, std::move(request.derivation), request.options};
  auto attachment = parts_.builds.ask(std::move(wanted));
  const auto result = co_await follow(std::move(attachment));
  serve::write_build_result(reply_, parts_.store.dir(), version_, result, hashes);
  co_await reply();
}

namespace {

/// `path` or `drv!out,dev`, taken apart. No outputs named: all of them.
struct Target {
  model::StorePath path;
  std::set<std::string> outputs;
};

Target parse_target(const model::StoreDir& dir, std::string_view text) {
  const auto mark = text.find('!');
  Target target{dir.parse(text.substr(0, mark)), {}};
  while (mark != std::string_view::npos && !text.empty()) {
    text.remove_prefix(std::min(text.size(), text.find_first_of("!,") + 1));
    const auto end = text.find(',');
    target.outputs.insert(std::string(text.substr(0, end)));
    if (end == std::string_view::npos) {
      break;
    }
    text.remove_prefix(end);
  }
  return target;
}

/// The contents of a valid `.drv`. Blocking.
model::Derivation
load_derivation(store::Store& store, store::AccountId account, const model::StorePath& path) {
  auto source = store.open_export(account, path);
  const auto root = source.tree().root();
  if (root.type != segment::NodeType::Regular || root.size > kDerivationBytes) {
    throw Error(Reaction::Reject,
                "derivation.file",
                fmt::format("'{}' is not a derivation file", store.dir().print(path)));
  }
  return model::parse_derivation(store.dir(), source.read_file(root, kDerivationBytes));
}

} // namespace

aio::Task<void> ServeState::build_paths(serve::BuildPaths request) {
  model::BuildResult worst;
  worst.status = model::BuildStatus::Built;
  for (const auto& text : request.targets) {
    const auto target = parse_target(parts_.store.dir(), text);
    auto result = co_await build_target(target.path, request.options, 0);
    if (!model::is_success(result.status)) {
      worst = std::move(result);
      break;
    }
  }
  serve::write_build_paths_reply(reply_, worst.status, worst.error);
  co_await reply();
}

aio::Task<model::BuildResult>
ServeState::build_target(model::StorePath path, model::BuildOptions options, unsigned depth) {
  constexpr unsigned deepest = 1000;
  lease_.add(path);
  model::BuildResult result;
  auto look = [this, &path] {
    const model::StorePaths one = {path};
    return !parts_.store.db().valid_paths(account_, one).empty();
  };
  const bool valid = co_await parts_.pool.run(std::move(look));
  if (!valid || depth > deepest) {
    result.status = model::BuildStatus::MiscFailure;
    result.error = fmt::format("path '{}' is not valid, and substitution is disabled",
                               parts_.store.dir().print(path));
    co_return result;
  }
  if (!path.is_derivation()) {
    result.status = model::BuildStatus::AlreadyValid;
    co_return result;
  }
  auto load = [this, &path] {
    return load_derivation(parts_.store, account_, path);
  };
  model::Derivation derivation = co_await parts_.pool.run(std::move(load));
  for (const auto& [input, outputs] : derivation.input_derivations) {
    result = co_await build_target(input, options, depth + 1);
    if (!model::is_success(result.status)) {
      result.status = model::BuildStatus::DependencyFailed;
      co_return result;
    }
    for (const auto& [name, realisation] : result.outputs) {
      if (outputs.contains(name)) {
        derivation.input_sources.push_back(realisation.path);
      }
    }
  }
  model::sort_unique(derivation.input_sources);
  build::BuildRequest wanted{account_, path, derivation, options};
  auto attachment = parts_.builds.ask(std::move(wanted));
  co_return co_await follow(std::move(attachment));
}

} // namespace nixbuild::server
