#include "archive_intake.hpp"

#include <nixbuild/base/error.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

namespace nixbuild::server {

namespace {

/// Buffers of an archive on its way in. Owned by whoever still works on them.
struct Transfer {
  explicit Transfer(store::Import begun) : import(std::move(begun)) {}

  store::Import import;
  std::array<Bytes, 2> buffers;
};

/// Fills `buffer` with the next part of what is left of an archive.
aio::Task<void>
take_part(ByteSource& source, Bytes& buffer, std::uint64_t& left, const std::string& path) {
  buffer.resize(static_cast<std::size_t>(std::min<std::uint64_t>(left, kTransferBuffer)));
  const std::size_t count = co_await source.take(buffer);
  if (count < buffer.size()) {
    throw Error(Reaction::Reject,
                "store.nar-size",
                fmt::format("path '{}': the stream ends {} bytes before the announced size",
                            path,
                            left - count));
  }
  left -= count;
}

void register_sealed(store::Store& store, store::AccountId account, store::Import& import) {
  const auto info = import.seal();
  const std::span<const model::PathInfo> one(&info, 1);
  store.commit(account, one);
}

std::optional<store::Import>
begin(store::Store& store, store::AccountId account, const model::PathInfo& announced) {
  if (is_valid(store, account, announced.path)) {
    return std::nullopt;
  }
  return store.begin_import(account, import_request(announced));
}

aio::Task<void> receive_large(const SessionParts& parts,
                              store::AccountId account,
                              store::Import import,
                              std::uint64_t left,
                              std::string path,
                              ByteSource& source) {
  auto transfer = std::make_shared<Transfer>(std::move(import));
  std::shared_ptr<aio::BlockingPool::Pending> storing;
  for (std::size_t turn = 0; left > 0; turn ^= 1) {
    co_await take_part(source, transfer->buffers[turn], left, path);
    if (storing) {
      co_await storing->wait();
    }
    auto feed = [transfer, turn, path] {
      feed_all(transfer->import, transfer->buffers[turn], path);
    };
    storing = parts.pool.start(std::move(feed));
  }
  co_await storing->wait();
  auto end = [&parts, account, transfer] {
    register_sealed(parts.store, account, transfer->import);
  };
  co_await parts.pool.run(std::move(end));
}

} // namespace

bool is_valid(store::Store& store, store::AccountId account, const model::StorePath& path) {
  const std::span<const model::StorePath> one(&path, 1);
  return !store.db().valid_paths(account, one).empty();
}

store::ImportRequest import_request(const model::PathInfo& announced) {
  return {.path = announced.path,
          .deriver = announced.deriver,
          .nar_hash = announced.nar_hash,
          .nar_size = announced.nar_size,
          .references = announced.references,
          .registration_time = announced.registration_time,
          .ultimate = announced.ultimate,
          .signatures = announced.signatures,
          .content_address = announced.content_address,
          .scan_for = {}};
}

void feed_all(store::Import& import, ByteView bytes, const std::string& path) {
  if (import.feed(bytes) != bytes.size()) {
    throw Error(
        Reaction::Reject,
        "store.nar-size",
        fmt::format("bytes follow the end of the archive of '{}' inside the announced size", path));
  }
}

aio::Task<void> receive_path(const SessionParts& parts,
                             store::AccountId account,
                             model::PathInfo announced,
                             ByteSource& source) {
  const auto path = parts.store.dir().print(announced.path);
  std::uint64_t left = announced.nar_size;
  Bytes buffer;
  if (left <= kTransferBuffer) {
    if (left > 0) {
      co_await take_part(source, buffer, left, path);
    }
    auto work = [&parts, account, &announced, &buffer, &path] {
      if (auto import = begin(parts.store, account, announced)) {
        feed_all(*import, buffer, path);
        register_sealed(parts.store, account, *import);
      }
    };
    co_await parts.pool.run(std::move(work));
    co_return;
  }
  auto open = [&parts, account, &announced] {
    return begin(parts.store, account, announced);
  };
  auto import = co_await parts.pool.run(std::move(open));
  if (import) {
    co_await receive_large(parts, account, std::move(*import), left, path, source);
    co_return;
  }
  while (left > 0) {
    co_await take_part(source, buffer, left, path);
  }
}

} // namespace nixbuild::server
