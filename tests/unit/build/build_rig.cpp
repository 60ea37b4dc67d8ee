#include "build_rig.hpp"

#include <nixbuild/base/error.hpp>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <catch2/catch.hpp>

#include <utility>

namespace nixbuild::tests {

namespace {

scheduler::NodeSpec machine() {
  scheduler::NodeSpec node;
  node.name = "local";
  node.cpus = 2;
  node.memory_bytes = 4 * kGiB;
  node.platforms = {"x86_64-linux"};
  return node;
}

/// Machines that were lost are replaced at once.
scheduler::SchedulerSettings hasty() {
  scheduler::SchedulerSettings settings;
  settings.restart_delay = std::chrono::milliseconds(1);
  return settings;
}

} // namespace

void Asker::leave() {
  const std::lock_guard lock(mutex_);
  left_ = true;
}

Daemon::Daemon(World& w,
               FakeExecutor::Script script,
               build::BuilderSettings settings,
               build::KeptMachines* kept)
    : world(w), store(*w.db, *w.segments, clock, model::StoreDir()),
      executor(io.get_executor(), std::move(script), w.host), leases(hasty(), {machine()}, clock),
      builder({store, *w.logs, executor, leases, pool, clock, log, &signing_key, nullptr, kept},
              settings),
      builds(builder, build_tasks, {w.return_grace}) {
  world.host->daemon_killed = false;
  clock.ahead = world.hours_ahead;
  static_cast<void>(builds.take_up());
  loop = std::jthread([this] { io.run(); });
}

Daemon::~Daemon() {
  stop(true);
}

void Daemon::end() {
  stop(true);
}

void Daemon::kill() {
  stop(false);
}

void Daemon::stop(bool orderly) {
  if (std::exchange(over_, true)) {
    return;
  }
  if (orderly) {
    builds.leave_running();
    asker_tasks.cancel();
    build_tasks.cancel();
    static_cast<void>(
        eventually([this] { return build_tasks.running() == 0 && asker_tasks.running() == 0; }));
    work.reset();
  } else {
    world.host->daemon_killed = true;
    io.stop();
  }
  loop.join();
  pool.join();
}

aio::Task<void>
Daemon::follow(Daemon& self, std::shared_ptr<Asker> asker, build::BuildRequest request) {
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor);
  try {
    auto attachment = co_await self.builds.ask(std::move(request));
    {
      const std::lock_guard lock(asker->mutex_);
      asker->joined_ = attachment.joined();
      asker->attached_ = true;
    }
    std::uint64_t offset = 0;
    for (bool closed = false; !closed;) {
      auto piece = attachment.feed().read(offset);
      if (piece.missed) {
        piece.bytes = self.world.logs->read(attachment.number(), offset, 65536).value_or("");
      }
      offset += piece.bytes.size();
      closed = piece.closed;
      {
        const std::lock_guard lock(asker->mutex_);
        asker->log_ += piece.bytes;
        asker->number_ = attachment.number();
        if (asker->left_) {
          co_return;
        }
      }
      if (piece.bytes.empty() && !closed) {
        timer.expires_after(std::chrono::milliseconds(5));
        co_await timer.async_wait(boost::asio::use_awaitable);
      }
    }
    auto result = co_await attachment.result();
    const std::lock_guard lock(asker->mutex_);
    asker->number_ = attachment.number();
    asker->result_ = std::move(result);
  } catch (const std::exception& error) {
    const std::lock_guard lock(asker->mutex_);
    asker->failure_ = error.what();
  }
}

std::shared_ptr<Asker> Daemon::ask(build::BuildRequest request) {
  auto asker = std::make_shared<Asker>();
  auto task = follow(*this, asker, std::move(request));
  asker_tasks.spawn("asker", std::move(task));
  REQUIRE(eventually([&] {
    const std::lock_guard lock(asker->mutex_);
    return asker->attached_ || !asker->failure_.empty();
  }));
  return asker;
}

std::shared_ptr<Asker> Daemon::complete(build::BuildRequest request) {
  auto asker = ask(std::move(request));
  REQUIRE(eventually([&] { return asker->ended(); }));
  return asker;
}

model::StorePath Daemon::add(store::AccountId account,
                             std::string_view name,
                             std::string_view contents,
                             const model::StorePaths& references) {
  store::ImportRequest request{path_named(name), {}, {}, {}, references, 0, false, {}, {}, {}};
  auto import = store.begin_import(account, std::move(request));
  import.feed(bytes_of(nar_of_file(contents)));
  const auto info = import.seal();
  store.commit(account, {&info, 1});
  return info.path;
}

std::string Daemon::contents(store::AccountId account, const model::StorePath& path) {
  const auto source = store.open_export(account, path);
  return source.read_file(source.tree().root(), 1'000'000);
}

void Daemon::collect_garbage(store::AccountId account) {
  store.collect_garbage(account, {});
}

Daemon& mortal(World& world, FakeExecutor::Script script, build::BuilderSettings settings) {
  static auto* const all = new std::vector<Daemon*>();
  all->push_back(new Daemon(world, std::move(script), settings));
  return *all->back();
}

model::StorePath path_named(std::string_view name) {
  const auto digest = hash_of(HashAlgorithm::Sha1, bytes_of(name));
  return model::StorePath(digest.bytes(), name);
}

build::BuildRequest
request_for(store::AccountId account, std::string_view name, const model::StorePaths& inputs) {
  build::BuildRequest request{account, path_named(std::string(name) + ".drv"), {}, {}, {}};
  model::DerivationOutput output;
  output.path = path_named(name);
  request.derivation.outputs["out"] = output;
  request.derivation.platform = "x86_64-linux";
  request.derivation.builder = "/bin/sh";
  request.derivation.input_sources = inputs;
  model::sort_unique(request.derivation.input_sources);
  request.policy.emplace();
  request.proven = true;
  return request;
}

bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

} // namespace nixbuild::tests
