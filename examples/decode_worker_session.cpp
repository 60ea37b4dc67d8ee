// Says what a Nix client asked for in a recorded session of the worker protocol (ssh-ng://), from
// the bytes that both sides wrote. No I/O in the library: bytes in, messages out.
//
//     decode_worker_session SESSION.c2s SESSION.s2c

#include <nixbuild/base/error.hpp>
#include <nixbuild/model/store_path.hpp>
#include <nixbuild/protocol/worker.hpp>

#include <fstream>
#include <iostream>
#include <iterator>

using namespace nixbuild;
namespace worker = protocol::worker;

namespace {

std::string contents_of(const char* file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// The paths of an upload: infos and archives inside a framed stream.
void describe_upload(worker::RequestReader& client, const model::StoreDir& dir) {
  protocol::FramedReader frames;
  protocol::PathInfoStream paths(dir);
  while (!frames.finished() && !client.raw().empty()) {
    const auto piece = frames.read(client.raw());
    paths.feed(piece.payload);
    client.consume_raw(piece.used);
    while (const auto item = paths.next()) {
      if (const auto* info = std::get_if<model::PathInfo>(&*item)) {
        std::cout << "  " << dir.print(info->path) << ", " << info->nar_size << " bytes\n";
      }
      paths.consume_nar(paths.nar().size()); // A real server parses them.
    }
    paths.consume_nar(paths.nar().size());
  }
}

} // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::cerr << "usage: decode_worker_session SESSION.c2s SESSION.s2c\n";
    return 2;
  }
  const model::StoreDir dir("/nix/store");
  // Both sides go by the smaller version and the features that both have.
  worker::ReplyReader server(dir);
  server.feed(bytes_of(contents_of(argv[2])));
  const auto version = server.read_hello().value();
  const auto welcome = server.read_welcome().value();
  std::cout << "worker protocol " << version.major_number() << '.' << version.minor_number()
            << " with " << welcome.daemon_version << '\n';
  worker::RequestReader client(dir, {}, version, welcome.peer.features);
  client.feed(bytes_of(contents_of(argv[1])));
  while (client.greeting()) { // A real server writes what each step asks for.
  }
  while (const auto request = client.next()) {
    std::cout << worker::name_of(*request) << '\n';
    if (const auto* build = std::get_if<worker::BuildDerivation>(&*request)) {
      std::cout << "  " << dir.print(build->path) << " for " << build->derivation.platform << '\n';
    } else if (std::holds_alternative<worker::AddMultipleToStore>(*request)) {
      describe_upload(client, dir);
    }
  }
  std::cout << (client.at_boundary() ? "complete\n" : "cut off in a request\n");
  return client.at_boundary() ? 0 : 1;

} catch (const Error& error) {

  std::cerr << error.what() << " [" << error.code() << "]\n";
  return exit_code_of(error.reaction());
}
