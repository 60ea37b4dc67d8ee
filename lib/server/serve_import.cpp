#include "serve_state.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/export_stream.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

namespace nixbuild::server {

namespace serve = protocol::serve;

namespace {

/// Paths of one export stream that are registered together.
constexpr std::size_t kRegisterAtOnce = 500;

[[noreturn]] void throw_truncated(const std::string& path) {
  throw Error(Reaction::Disconnected,
              "serve.truncated",
              fmt::format("the client left while it was sending '{}'", path));
}

store::ImportRequest announced(const model::PathInfo& info) {
  store::ImportRequest request{
      info.path, info.deriver, info.nar_hash, info.nar_size, info.references, 0, false, {}, {}, {}};
  request.registration_time = info.registration_time;
  request.ultimate = info.ultimate;
  request.signatures = info.signatures;
  request.content_address = info.content_address;
  return request;
}

} // namespace

namespace {

/// Buffers of an archive on its way in: one is filled from the client while the other is digested
/// and stored. Owned by whoever still works on them.
struct Transfer {
  explicit Transfer(store::Import begun) : import(std::move(begun)) {}

  store::Import import;
  std::array<Bytes, 2> buffers;
};

void feed_all(store::Import& import, ByteView bytes, const std::string& path) {
  if (import.feed(bytes) != bytes.size()) {
    throw Error(
        Reaction::Reject,
        "store.nar-size",
        fmt::format("bytes follow the end of the archive of '{}' inside the announced size", path));
  }
}

/// Bytes gathered before they are handed on: few hand-overs, and the cache still holds them.
constexpr std::size_t kTransferBuffer = 512 * kKiB;

} // namespace

aio::Task<std::size_t> ServeState::take_raw(Bytes& buffer, std::uint64_t left, std::string path) {
  const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(left, kTransferBuffer));
  buffer.resize(wanted);
  std::size_t have = std::min(wanted, reader_.raw().size());
  std::copy_n(reader_.raw().begin(), have, buffer.begin());
  reader_.consume_raw(have);
  while (have < wanted) {
    const std::size_t count =
        co_await in_->read_some(MutableBytes(buffer).subspan(have), limits_.stalled);
    if (count == 0) {
      throw_truncated(path);
    }
    have += count;
  }
  co_return have;
}

aio::Task<void>
ServeState::receive_nar(store::Import import, std::uint64_t left, std::string path) {
  auto transfer = std::make_shared<Transfer>(std::move(import));
  std::shared_ptr<aio::BlockingPool::Pending> storing;
  for (std::size_t turn = 0; left > 0; turn ^= 1) {
    left -= co_await take_raw(transfer->buffers[turn], left, path);
    if (storing) {
      co_await storing->wait();
    }
    auto feed = [transfer, turn, path] {
      feed_all(transfer->import, transfer->buffers[turn], path);
    };
    storing = parts_.pool.start(std::move(feed));
  }
  co_await storing->wait();
  auto end = [this, transfer] {
    const auto info = transfer->import.seal();
    const std::span<const model::PathInfo> one(&info, 1);
    parts_.store.commit(account_, one);
  };
  co_await parts_.pool.run(std::move(end));
}

std::optional<store::Import> ServeState::begin_add(const model::PathInfo& info) {
  const model::StorePaths one = {info.path};
  if (!parts_.store.db().valid_paths(account_, one).empty()) {
    return std::nullopt;
  }
  return parts_.store.begin_import(account_, announced(info));
}

aio::Task<void> ServeState::add_to_store_nar(serve::AddToStoreNar request) {
  const auto path = parts_.store.dir().print(request.info.path);
  lease_.add(request.info.path);
  std::uint64_t left = request.info.nar_size;
  if (left <= kTransferBuffer) {
    // Small: everything in one go on the blocking pool.
    Bytes buffer;
    if (left > 0) {
      co_await take_raw(buffer, left, path);
    }
    auto work = [this, &request, &buffer, &path] {
      if (auto import = begin_add(request.info)) {
        feed_all(*import, buffer, path);
        const auto info = import->seal();
        const std::span<const model::PathInfo> one(&info, 1);
        parts_.store.commit(account_, one);
      }
    };
    co_await parts_.pool.run(std::move(work));
  } else {
    auto begin = [this, &request] {
      return begin_add(request.info);
    };
    auto import = co_await parts_.pool.run(std::move(begin));
    if (import) {
      co_await receive_nar(std::move(*import), left, path);
    } else {
      // Valid already: the bytes must be taken all the same, and are only counted.
      Bytes buffer;
      while (left > 0) {
        left -= co_await take_raw(buffer, left, path);
      }
    }
  }
  serve::write_number(reply_, 1);
  co_await reply();
}

aio::Task<void> ServeState::import_paths() {
  using protocol::ExportStreamReader;
  ExportStreamReader stream(parts_.store.dir(), limits_.wire);
  std::optional<store::Import> import;
  std::vector<model::PathInfo> sealed;
  auto commit = [this, &sealed] {
    parts_.store.commit(account_, sealed);
    sealed.clear();
  };
  for (;;) {
    std::optional<ExportStreamReader::Item> item;
    while (!(item = stream.next())) {
      if (reader_.raw().empty() && !co_await fill(limits_.stalled)) {
        throw_truncated("an export stream");
      }
      stream.feed(reader_.raw());
      reader_.consume_raw(reader_.raw().size());
    }
    if (std::holds_alternative<ExportStreamReader::End>(*item)) {
      break;
    }
    if (std::holds_alternative<ExportStreamReader::NarBegins>(*item)) {
      // Its name comes behind the archive: the import is named when it is sealed.
      import.emplace(parts_.store.begin_import(account_));
      while (!import->complete()) {
        if (stream.raw().empty()) {
          if (reader_.raw().empty() && !co_await fill(limits_.stalled)) {
            throw_truncated("an export stream");
          }
          stream.feed(reader_.raw());
          reader_.consume_raw(reader_.raw().size());
        }
        std::size_t taken = 0;
        auto feed = [&import, &stream, &taken] {
          taken = import->feed(stream.raw());
        };
        co_await parts_.pool.run(std::move(feed));
        stream.consume_raw(taken);
      }
      stream.nar_finished();
      continue;
    }
    const auto& trailer = std::get<protocol::ExportTrailer>(*item);
    lease_.add(trailer.path);
    store::ImportRequest request{
        trailer.path, trailer.deriver, {}, {}, trailer.references, 0, false, {}, {}, {}};
    model::sort_unique(request.references);
    auto seal = [&import, &request, &sealed] {
      sealed.push_back(import->seal_as(request));
    };
    co_await parts_.pool.run(std::move(seal));
    import.reset();
    if (sealed.size() >= kRegisterAtOnce) {
      auto work = commit;
      co_await parts_.pool.run(std::move(work));
    }
  }
  if (!sealed.empty()) {
    auto work = commit;
    co_await parts_.pool.run(std::move(work));
  }
  // What came behind the stream belongs to the next request.
  const auto rest = stream.raw();
  reader_.feed(rest);
  serve::write_number(reply_, 1);
  co_await reply();
}

} // namespace nixbuild::server
