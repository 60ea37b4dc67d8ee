#include "unit/protocol/conversation.hpp"

#include "unit/protocol/pieces.hpp"

#include <nixbuild/nar/reader.hpp>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace nixbuild::test {

namespace {

const model::StoreDir kDir;

class Forget final : public nar::EventSink {
public:
  void regular(bool, std::uint64_t) override {}

  void contents(ByteView) override {}

  void regular_end() override {}

  void symlink(std::string_view) override {}

  void directory() override {}

  void entry(std::string_view) override {}

  void directory_end() override {}
};

/// Reads the replies to a list of requests, one step at a time.
class ReplyTaker {
public:
  ReplyTaker(serve::ReplyReader& reader, const std::vector<Asked>& requests, ServerSide& out)
      : reader_(reader), requests_(requests), out_(out) {}

  bool take() {
    if (out_.replies.size() == requests_.size()) {
      return false;
    }
    return std::visit([this](const auto& request) { return reply_to(request); },
                      requests_[out_.replies.size()].request);
  }

private:
  template <class Value>
  bool add(std::optional<Value> value) {
    if (!value) {
      return false;
    }
    out_.replies.emplace_back(std::move(*value));
    return true;
  }

  bool reply_to(const serve::QueryValidPaths&) { return add(reader_.read_paths()); }

  bool reply_to(const serve::QueryClosure&) { return add(reader_.read_paths()); }

  bool reply_to(const serve::AddToStoreNar&) { return add(reader_.read_number()); }

  bool reply_to(const serve::ImportPaths&) { return add(reader_.read_number()); }

  bool reply_to(const serve::BuildPaths&) { return add(reader_.read_build_paths_reply()); }

  bool reply_to(const serve::ExportPaths&) {
    throw std::runtime_error("no recording has ExportPaths");
  }

  bool reply_to(const serve::BuildDerivation&) {
    Result out;
    auto result = reader_.read_build_result(&out.keys);
    if (!result) {
      return false;
    }
    out.result = std::move(*result);
    return add(std::optional(std::move(out)));
  }

  bool reply_to(const serve::QueryPathInfos&) {
    auto entry = reader_.read_path_info();
    if (!entry) {
      return false;
    }
    if (!*entry) {
      return add(std::optional(std::exchange(infos_, {})));
    }
    infos_.entries.push_back(std::move(**entry));
    return true;
  }

  bool reply_to(const serve::DumpStorePath&) {
    if (!nar_) {
      nar_.emplace(sink_);
    }
    const ByteView raw = reader_.raw();
    const std::size_t used = nar_->feed(raw);
    nar_bytes_ += text_of(raw.first(used));
    reader_.consume_raw(used);
    if (!nar_->finished()) {
      return false;
    }
    nar_.reset();
    return add(std::optional(Nar{std::exchange(nar_bytes_, {})}));
  }

  serve::ReplyReader& reader_;
  const std::vector<Asked>& requests_;
  ServerSide& out_;
  Infos infos_;
  Forget sink_;
  std::optional<nar::Reader> nar_;
  std::string nar_bytes_;
};

} // namespace

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<Recording> recordings(std::string_view protocol) {
  std::vector<Recording> out;
  const std::filesystem::path root = TEST_DATA_DIR "/protocol/captures";
  for (const auto& file : std::filesystem::recursive_directory_iterator(root)) {
    const bool is_worker = file.path().filename().string().starts_with("ssh-ng-");
    if (file.path().extension() == ".c2s" && is_worker == (protocol == "ssh-ng")) {
      auto other = file.path();
      other.replace_extension(".s2c");
      out.push_back({std::filesystem::relative(file.path(), root).string(),
                     read_file(file.path()),
                     read_file(other)});
    }
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return out;
}

protocol::Version announced_version(std::string_view stream) {
  return protocol::Version(static_cast<unsigned char>(stream.at(9)),
                           static_cast<unsigned char>(stream.at(8)));
}

ClientSide decode_client(std::string_view stream, protocol::Version server, std::size_t cut) {
  ClientSide out;
  serve::RequestReader reader(kDir, {}, server);
  std::uint64_t raw_left = 0;
  feed_pieces(reader, stream, cut, [&] {
    if (raw_left > 0) {
      const auto raw = reader.raw().first(std::min<std::uint64_t>(raw_left, reader.raw().size()));
      out.requests.back().raw += text_of(raw);
      raw_left -= raw.size();
      reader.consume_raw(raw.size());
      return !raw.empty();
    }
    auto request = reader.next();
    if (!request) {
      return false;
    }
    if (const auto* add = std::get_if<serve::AddToStoreNar>(&*request)) {
      raw_left = add->info.nar_size;
    }
    out.requests.push_back({std::move(*request), {}});
    return true;
  });
  out.complete = raw_left == 0 && reader.at_boundary();
  return out;
}

std::string encode_client(protocol::Version announced,
                          protocol::Version agreed,
                          const std::vector<Asked>& requests) {
  std::string out;
  serve::write_client_hello(out, announced);
  for (const auto& asked : requests) {
    serve::write_request(out, kDir, agreed, asked.request);
    out += asked.raw;
  }
  return out;
}

ServerSide decode_server(std::string_view stream,
                         protocol::Version client,
                         const std::vector<Asked>& requests,
                         std::size_t cut) {
  ServerSide out;
  serve::ReplyReader reader(kDir);
  ReplyTaker taker(reader, requests, out);
  feed_pieces(reader, stream, cut, [&] { return reader.read_hello(client) && taker.take(); });
  out.complete = reader.read_hello(client).has_value() && reader.at_boundary() &&
                 out.replies.size() == requests.size();
  return out;
}

std::string encode_server(protocol::Version announced,
                          protocol::Version agreed,
                          const std::vector<Reply>& replies) {
  std::string out;
  serve::write_hello(out, announced);
  for (const auto& reply : replies) {
    if (const auto* paths = std::get_if<model::StorePaths>(&reply)) {
      serve::write_paths(out, kDir, *paths);
    } else if (const auto* infos = std::get_if<Infos>(&reply)) {
      for (const auto& entry : infos->entries) {
        serve::write_path_info(out, kDir, agreed, entry);
      }
      serve::write_end_of_infos(out);
    } else if (const auto* nar = std::get_if<Nar>(&reply)) {
      out += nar->bytes;
    } else if (const auto* number = std::get_if<std::uint64_t>(&reply)) {
      serve::write_number(out, *number);
    } else if (const auto* built = std::get_if<BuildPathsReply>(&reply)) {
      serve::write_build_paths_reply(
          out, static_cast<model::BuildStatus>(built->first), built->second);
    } else {
      const auto& result = std::get<Result>(reply);
      serve::write_build_result(out, kDir, agreed, result.result, result.keys);
    }
  }
  return out;
}

} // namespace nixbuild::test
