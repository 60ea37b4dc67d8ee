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

/// The archive behind an AddToStoreNar: what the reader has gathered beyond the request, then what
/// comes from the client.
class AnnouncedArchive final : public ByteSource {
public:
  AnnouncedArchive(serve::RequestReader& reader,
                   aio::ByteStream& in,
                   std::chrono::milliseconds patience,
                   std::string path)
      : reader_(reader), in_(in), patience_(patience), path_(std::move(path)) {}

  aio::Task<std::size_t> take(MutableBytes buffer) override {
    std::size_t have = std::min(buffer.size(), reader_.raw().size());
    std::copy_n(reader_.raw().begin(), have, buffer.begin());
    reader_.consume_raw(have);
    while (have < buffer.size()) {
      const std::size_t count = co_await in_.read_some(buffer.subspan(have), patience_);
      if (count == 0) {
        throw_truncated(path_);
      }
      have += count;
    }
    co_return have;
  }

private:
  serve::RequestReader& reader_;
  aio::ByteStream& in_;
  std::chrono::milliseconds patience_;
  std::string path_;
};

} // namespace

aio::Task<void> ServeState::add_to_store_nar(serve::AddToStoreNar request) {
  lease_.add(request.info.path);
  AnnouncedArchive archive(
      reader_, *in_, limits_.stalled, parts_.store.dir().print(request.info.path));
  co_await receive_path(parts_, account_, std::move(request.info), archive);
  serve::write_number(reply_, 1);
  co_await reply();
}

/// What the client has begun to send is taken, and told to have failed: the reason has no place but
/// its standard error.
aio::Task<void> ServeState::refuse_path(const serve::AddToStoreNar& request, std::string why) {
  co_await complain(std::move(why));
  std::uint64_t left = request.info.nar_size;
  while (left > 0) {
    if (reader_.raw().empty() && !co_await fill(limits_.stalled)) {
      throw_truncated(parts_.store.dir().print(request.info.path));
    }
    const auto taken = std::min<std::uint64_t>(left, reader_.raw().size());
    reader_.consume_raw(static_cast<std::size_t>(taken));
    left -= taken;
  }
  serve::write_number(reply_, 0);
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
