#include "path_batch.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/path_info_stream.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

namespace nixbuild::server {

namespace {

/// A batch goes to the store when it holds so much.
constexpr std::size_t kBatchBytes = 4 * kMiB;
constexpr std::size_t kBatchPaths = 500;

struct Arrived {
  model::PathInfo info;
  Bytes archive;
};

/// Small paths that have arrived whole. Owned by whoever still works on it.
struct Batch {
  std::vector<Arrived> paths;
  std::size_t bytes = 0;

  [[nodiscard]] bool full() const noexcept {
    return bytes >= kBatchBytes || paths.size() >= kBatchPaths;
  }
};

model::PathInfo take_in(store::Store& store, store::AccountId account, const Arrived& arrived) {
  auto import = store.begin_import(account, import_request(arrived.info));
  feed_all(import, arrived.archive, store.dir().print(arrived.info.path));
  return import.seal();
}

/// Blocking.
void store_batch(store::Store& store, store::AccountId account, const Batch& batch) {
  std::vector<model::PathInfo> sealed;
  std::exception_ptr failure;
  try {
    for (const auto& arrived : batch.paths) {
      sealed.push_back(take_in(store, account, arrived));
    }
  } catch (...) {
    failure = std::current_exception();
  }
  store.commit(account, sealed);
  if (failure) {
    std::rethrow_exception(failure);
  }
}

/// The archive of one large path inside the frames.
class NestedArchive final : public ByteSource {
public:
  NestedArchive(protocol::PathInfoStream& stream, FramedPayload& frames)
      : stream_(stream), frames_(frames) {}

  aio::Task<std::size_t> take(MutableBytes buffer) override {
    std::size_t have = std::min(buffer.size(), stream_.nar().size());
    std::copy_n(stream_.nar().begin(), have, buffer.begin());
    stream_.consume_nar(have);
    while (have < buffer.size() && stream_.nar_left() > 0) {
      const std::size_t count = co_await frames_.take_some(buffer_);
      if (count == 0) {
        break;
      }
      stream_.feed(ByteView(buffer_).first(count));
      const std::size_t more = std::min(buffer.size() - have, stream_.nar().size());
      std::copy_n(stream_.nar().begin(), more, buffer.begin() + static_cast<std::ptrdiff_t>(have));
      stream_.consume_nar(more);
      have += more;
    }
    co_return have;
  }

private:
  protocol::PathInfoStream& stream_;
  FramedPayload& frames_;
  Bytes buffer_ = Bytes(kTransferBuffer);
};

/// The batches of one request: one is filled while another is stored.
class Intake {
public:
  Intake(const SessionParts& parts, store::AccountId account) : parts_(parts), account_(account) {}

  aio::Task<void> add(Arrived arrived) {
    filling_->bytes += arrived.archive.size();
    filling_->paths.push_back(std::move(arrived));
    if (filling_->full()) {
      co_await hand_over();
    }
  }

  /// Returns once everything has been registered.
  aio::Task<void> finish() {
    co_await hand_over();
    if (auto pending = std::exchange(storing_, nullptr)) {
      co_await pending->wait();
    }
  }

private:
  aio::Task<void> hand_over() {
    if (filling_->paths.empty()) {
      co_return;
    }
    if (auto pending = std::exchange(storing_, nullptr)) {
      co_await pending->wait();
    }
    auto batch = std::exchange(filling_, std::make_shared<Batch>());
    auto work = [&store = parts_.store, account = account_, batch] {
      store_batch(store, account, *batch);
    };
    storing_ = parts_.pool.start(std::move(work));
  }

  const SessionParts& parts_;
  store::AccountId account_;
  std::shared_ptr<Batch> filling_ = std::make_shared<Batch>();
  std::shared_ptr<aio::BlockingPool::Pending> storing_;
};

aio::Task<void> receive_one(const SessionParts& parts,
                            store::AccountId account,
                            Intake& intake,
                            NestedArchive& archive,
                            model::PathInfo info) {
  if (info.nar_size > kTransferBuffer) {
    co_await intake.finish();
    co_await receive_path(parts, account, std::move(info), archive);
    co_return;
  }
  Arrived arrived{std::move(info), {}};
  arrived.archive.resize(static_cast<std::size_t>(arrived.info.nar_size));
  const std::size_t count = co_await archive.take(arrived.archive);
  if (count < arrived.archive.size()) {
    throw Error(Reaction::Reject,
                "worker.truncated",
                fmt::format("the frames end inside the archive of '{}'",
                            parts.store.dir().print(arrived.info.path)));
  }
  co_await intake.add(std::move(arrived));
}

} // namespace

aio::Task<void> receive_paths(const SessionParts& parts,
                              store::AccountId account,
                              store::Lease& lease,
                              protocol::Limits limits,
                              FramedPayload& frames) {
  protocol::PathInfoStream stream(parts.store.dir(), limits);
  NestedArchive archive(stream, frames);
  Intake intake(parts, account);
  Bytes buffer(kTransferBuffer);
  for (;;) {
    auto item = stream.next();
    if (!item) {
      if (stream.finished()) {
        break;
      }
      const std::size_t count = co_await frames.take_some(buffer);
      if (count == 0) {
        throw Error(Reaction::Reject, "worker.truncated", "the frames end before the last path");
      }
      stream.feed(ByteView(buffer).first(count));
    } else if (auto* info = std::get_if<model::PathInfo>(&*item)) {
      lease.add(info->path);
      co_await receive_one(parts, account, intake, archive, std::move(*info));
    } else if (std::holds_alternative<protocol::PathInfoStream::End>(*item)) {
      break;
    }
  }
  co_await intake.finish();
  if (!stream.finished() || co_await frames.take_some(buffer) > 0) {
    throw Error(Reaction::Reject, "worker.trailing", "bytes follow the last path");
  }
}

} // namespace nixbuild::server
