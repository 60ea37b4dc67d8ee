#include "admin_call.hpp"
#include "admin_text.hpp"

#include <nixbuild/base/encoding.hpp>
#include <nixbuild/model/hash_text.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace nixbuild::server {

namespace json = boost::json;

namespace {

/// Paths that are verified between two looks at whether the caller is still there.
constexpr std::size_t kVerifiedAtOnce = 16;

/// A file or folder inside a store path.
struct Place {
  model::StorePath path;
  std::string inside; ///< relative; empty: the store path itself
};

Place parse_place(const AdminCall& call, std::string_view text) {
  const auto& dir = call.parts.store.dir();
  if (text.starts_with(dir.text() + "/")) {
    text.remove_prefix(dir.text().size() + 1);
  } else if (text.starts_with("/")) {
    throw Error(Reaction::Reject,
                "store-path.outside",
                fmt::format("'{}' does not lie in {}", printable(text), dir.text()));
  }
  const auto slash = text.find('/');
  const auto name = text.substr(0, slash);
  auto inside = slash == std::string_view::npos ? std::string() : std::string(text.substr(slash));
  inside.erase(0, inside.find_first_not_of('/'));
  inside.erase(inside.find_last_not_of('/') + 1);
  if (name.size() == model::StorePath::kHashLength &&
      std::all_of(name.begin(), name.end(), is_nix32)) {
    auto path = call.parts.store.db().path_of_hash_part(call.account, name);
    if (!path) {
      throw Error(Reaction::NotFound,
                  "store.invalid-path",
                  fmt::format("account '{}' has no path with hash {}", call.handoff.account, name));
    }
    return {std::move(*path), std::move(inside)};
  }
  return {model::StorePath::parse(name), std::move(inside)};
}

model::StorePath parse_path(const AdminCall& call, std::string_view text) {
  auto place = parse_place(call, text);
  if (!place.inside.empty()) {
    throw Error(Reaction::Reject,
                "store-path.inside",
                fmt::format("'{}' is inside a store path; name the path itself", printable(text)));
  }
  return std::move(place.path);
}

[[noreturn]] void throw_invalid(const AdminCall& call, const model::StorePath& path) {
  throw Error(Reaction::NotFound,
              "store.invalid-path",
              fmt::format("the path {} is not in the store of account '{}'",
                          call.parts.store.dir().print(path),
                          call.handoff.account));
}

std::uint64_t closure_size(const AdminCall& call, const model::StorePath& path) {
  auto& db = call.parts.store.db();
  const model::StorePaths roots = {path};
  const auto closure = db.closure(call.account, roots);
  std::uint64_t sum = 0;
  db.path_infos(call.account, closure, [&](const model::PathInfo& info) { sum += info.nar_size; });
  return sum;
}

json::array print_all(const AdminCall& call, const model::StorePaths& paths) {
  json::array list;
  for (const auto& path : paths) {
    list.push_back(json::value(call.parts.store.dir().print(path)));
  }
  return list;
}

json::object as_json(const AdminCall& call, const model::PathInfo& info) {
  const auto& dir = call.parts.store.dir();
  json::array signatures;
  for (const auto& signature : info.signatures) {
    signatures.push_back(json::value(signature));
  }
  json::object object{{"path", dir.print(info.path)},
                      {"narHash", model::hash_sri(info.nar_hash)},
                      {"narSize", info.nar_size},
                      {"references", print_all(call, info.references)},
                      {"registered", iso_time(info.registration_time)},
                      {"ultimate", info.ultimate},
                      {"signatures", std::move(signatures)}};
  object["deriver"] = info.deriver ? json::value(dir.print(*info.deriver)) : json::value(nullptr);
  object["ca"] =
      info.content_address.empty() ? json::value(nullptr) : json::value(info.content_address);
  return object;
}

std::string as_text(const AdminCall& call, const model::PathInfo& info) {
  const auto& dir = call.parts.store.dir();
  std::string text = dir.print(info.path) + "\n";
  const auto line = [&](std::string_view name, std::string_view value) {
    text += fmt::format("  {:<12} {}\n", name, printable(value));
  };
  line("nar", fmt::format("{} bytes, {}", info.nar_size, model::hash_nix32(info.nar_hash)));
  line("registered", human_time(info.registration_time) + (info.ultimate ? ", built here" : ""));
  if (info.deriver) {
    line("deriver", dir.print(*info.deriver));
  }
  if (!info.content_address.empty()) {
    line("ca", info.content_address);
  }
  for (const auto& reference : info.references) {
    line("reference", dir.print(reference));
  }
  for (const auto& signature : info.signatures) {
    line("signature", signature);
  }
  return text;
}

std::string_view type_name(segment::NodeType type) {
  switch (type) {
  case segment::NodeType::Regular:
    return "regular";
  case segment::NodeType::Executable:
    return "executable";
  case segment::NodeType::Symlink:
    return "symlink";
  case segment::NodeType::Directory:
    return "directory";
  }
  return "";
}

segment::Node find_node(const store::Export& source, const Place& place) {
  auto node = source.tree().find(place.inside);
  if (!node) {
    throw Error(Reaction::NotFound,
                "store.no-such-file",
                fmt::format("{} has no '{}'", place.path.base_name(), printable(place.inside)));
  }
  return std::move(*node);
}

AdminAnswer list_files(const AdminCall& call) {
  const auto place = parse_place(call, call.command.arguments.front());
  const auto source = call.parts.store.open_export(call.account, place.path);
  const auto root = find_node(source, place);
  using Align = TextTable::Align;
  TextTable table({{"TYPE"}, {"SIZE", Align::Right}, {"NAME"}});
  json::array list;
  const auto add = [&](std::string_view name, const segment::Node& node) {
    const bool link = node.type == segment::NodeType::Symlink;
    table.add({std::string(type_name(node.type)),
               std::to_string(node.size),
               std::string(name) + (link ? " -> " + node.target : "")});
    json::object object{
        {"name", printable(name)}, {"type", type_name(node.type)}, {"size", node.size}};
    if (link) {
      object["target"] = printable(node.target);
    }
    list.push_back(std::move(object));
    return true;
  };
  if (root.type == segment::NodeType::Directory) {
    source.tree().children(root, add);
  } else {
    add(place.inside.empty() ? place.path.base_name() : place.inside, root);
  }
  return {call.json() ? json::serialize(list) + "\n" : table.text()};
}

} // namespace

AdminAnswer show_path_infos(const AdminCall& call) {
  json::array list;
  std::string text;
  for (const auto& word : call.command.arguments) {
    const auto path = parse_path(call, word);
    const auto info = call.parts.store.db().path_info(call.account, path);
    if (!info) {
      throw_invalid(call, path);
    }
    auto object = as_json(call, *info);
    text += as_text(call, *info);
    if (call.command.has("--closure-size")) {
      const auto size = closure_size(call, path);
      object["closureSize"] = size;
      text += fmt::format("  {:<12} {} bytes\n", "closure", size);
    }
    list.push_back(std::move(object));
  }
  return {call.json() ? json::serialize(list) + "\n" : text};
}

AdminAnswer list_paths(const AdminCall& call) {
  if (!call.command.arguments.empty()) {
    return list_files(call);
  }
  auto& db = call.parts.store.db();
  using Align = TextTable::Align;
  TextTable table({{"NAR", Align::Right}, {"REGISTERED"}, {"PATH"}});
  json::array list;
  db.path_infos(call.account, db.all_paths(call.account), [&](const model::PathInfo& info) {
    if (call.json()) {
      list.push_back(as_json(call, info));
    } else {
      table.add({human_size(info.nar_size),
                 human_time(info.registration_time),
                 call.parts.store.dir().print(info.path)});
    }
  });
  return {call.json() ? json::serialize(list) + "\n" : table.text()};
}

AdminAnswer collect_garbage(const AdminCall& call) {
  auto& store = call.parts.store;
  model::StorePaths roots;
  for (const auto& word : call.command.values("--keep")) {
    auto path = parse_path(call, word);
    const model::StorePaths one = {path};
    if (store.db().valid_paths(call.account, one).empty()) {
      throw_invalid(call, path);
    }
    roots.push_back(std::move(path));
  }
  if (const auto age = call.command.value("--older-than")) {
    const auto now = std::chrono::duration_cast<std::chrono::seconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
    const auto limit = now - parse_age(*age);
    const auto all = store.db().all_paths(call.account);
    store.db().path_infos(call.account, all, [&](const model::PathInfo& info) {
      if (info.registration_time > limit) {
        roots.push_back(info.path);
      }
    });
  }
  const auto result = store.collect_garbage(call.account, roots);
  if (call.json()) {
    return {json::serialize(json::object{{"pathsRemoved", result.paths_removed},
                                         {"bytesFreed", result.bytes_freed}}) +
            "\n"};
  }
  return {fmt::format(
      "{} store paths removed, {} freed\n", result.paths_removed, human_size(result.bytes_freed))};
}

aio::Task<int> print_path(AdminCall& call) {
  auto open = [&call] {
    auto place = parse_place(call, call.command.arguments.at(0));
    auto source =
        std::make_unique<store::Export>(call.parts.store.open_export(call.account, place.path));
    return std::make_pair(std::move(place), std::move(source));
  };
  const auto [place, source] = co_await call.parts.pool.run(std::move(open));
  constexpr std::chrono::hours patience{24};
  if (call.command.has("--nar")) {
    if (!place.inside.empty()) {
      throw Error(Reaction::Reject, "store-path.inside", "--nar prints whole store paths only");
    }
    while (const auto piece = source->next()) {
      if (const auto* literal = std::get_if<segment::LiteralPiece>(&*piece)) {
        co_await call.out->write_all(literal->bytes, patience);
      } else {
        const auto range = std::get<segment::DataPiece>(*piece);
        co_await call.out->send_file(source->data_fd(), range.offset, range.length, patience);
      }
    }
    co_return 0;
  }
  const auto node = find_node(*source, place);
  if (node.type == segment::NodeType::Directory || node.type == segment::NodeType::Symlink) {
    throw Error(Reaction::Reject,
                "store.not-a-file",
                fmt::format("{} is a {}, not a regular file",
                            printable(call.command.arguments.at(0)),
                            type_name(node.type)));
  }
  if (node.inlined) {
    co_await call.out->write_all(source->metadata().subspan(node.offset, node.size), patience);
  } else {
    co_await call.out->send_file(source->data_fd(), node.offset, node.size, patience);
  }
  co_return 0;
}

aio::Task<int> verify_paths(AdminCall& call) {
  auto select = [&call] {
    model::StorePaths paths;
    for (const auto& word : call.command.arguments) {
      paths.push_back(parse_path(call, word));
    }
    return paths.empty() ? call.parts.store.db().all_paths(call.account) : paths;
  };
  const model::StorePaths paths = co_await call.slow_pool().run(std::move(select));
  json::array list;
  std::size_t wrong = 0;
  for (std::size_t begin = 0; begin < paths.size(); begin += kVerifiedAtOnce) {
    auto verify = [&call, &paths, begin] {
      const auto some =
          std::span(paths).subspan(begin, std::min(kVerifiedAtOnce, paths.size() - begin));
      return call.parts.store.verify(call.account, some);
    };
    const auto findings = co_await call.slow_pool().run(std::move(verify));
    expect_caller(call);
    for (const auto& finding : findings) {
      ++wrong;
      const auto path = call.parts.store.dir().print(finding.path);
      if (call.json()) {
        list.push_back(
            json::object{{"path", path}, {"code", finding.code}, {"message", finding.message}});
      } else {
        auto line = fmt::format("{}: {} [{}]\n", path, printable(finding.message), finding.code);
        co_await write_text(*call.out, std::move(line));
      }
    }
  }
  std::string text;
  if (call.json()) {
    text = json::serialize(json::object{{"checked", paths.size()}, {"findings", std::move(list)}}) +
           "\n";
  } else {
    text = fmt::format("{} store paths verified, {} findings\n", paths.size(), wrong);
  }
  co_await write_text(*call.out, std::move(text));
  co_return wrong == 0 ? 0 : 1;
}

} // namespace nixbuild::server
