#include "serve_state.hpp"

#include <nixbuild/base/error.hpp>
#include <nixbuild/protocol/export_stream.hpp>

#include <fmt/format.h>

#include <algorithm>
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

aio::Task<void> ServeState::add_to_store_nar(serve::AddToStoreNar request) {
  const auto path = parts_.store.dir().print(request.info.path);
  lease_.add(request.info.path);
  std::uint64_t left = request.info.nar_size;
  std::optional<store::Import> import;
  auto begin = [this, &request, &import] {
    const model::StorePaths one = {request.info.path};
    // Valid already: the bytes must be taken all the same, and are only counted.
    if (parts_.store.db().valid_paths(account_, one).empty()) {
      import.emplace(parts_.store.begin_import(account_, announced(request.info)));
    }
  };
  co_await parts_.pool.run(std::move(begin));
  while (left > 0) {
    const auto raw = reader_.raw();
    if (raw.empty()) {
      if (!co_await fill(limits_.stalled)) {
        throw_truncated(path);
      }
      continue;
    }
    const auto bytes =
        raw.first(static_cast<std::size_t>(std::min<std::uint64_t>(raw.size(), left)));
    if (import) {
      auto feed = [&import, bytes, &path] {
        if (import->feed(bytes) != bytes.size()) {
          throw Error(Reaction::Reject,
                      "store.nar-size",
                      fmt::format("bytes follow the end of the archive of '{}' inside the "
                                  "announced size",
                                  path));
        }
      };
      co_await parts_.pool.run(std::move(feed));
    }
    left -= bytes.size();
    reader_.consume_raw(bytes.size());
  }
  if (import) {
    auto end = [this, &import] {
      const auto info = import->seal();
      const std::span<const model::PathInfo> one(&info, 1);
      parts_.store.commit(account_, one);
    };
    co_await parts_.pool.run(std::move(end));
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
