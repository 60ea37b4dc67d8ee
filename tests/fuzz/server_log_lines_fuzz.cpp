// A build's log has the same lines however it is cut, none of them has a line end inside, and none
// is longer than the limit. The first byte chooses the cut.

#include "server/log_lines.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

using namespace nixbuild;

namespace {

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

std::vector<std::string> lines_of(std::string_view bytes, std::size_t cut) {
  std::vector<std::string> lines;
  const auto take = [&lines](std::string line) {
    lines.push_back(std::move(line));
  };
  server::LogLines reader;
  for (; !bytes.empty(); bytes.remove_prefix(std::min(cut, bytes.size()))) {
    reader.feed(bytes.substr(0, cut), take);
  }
  reader.finish(take);
  return lines;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::string_view bytes = text_of({data + 1, size - 1});
  const auto whole = lines_of(bytes, bytes.size() + 1);
  require(lines_of(bytes, data[0] + std::size_t{1}) == whole);
  for (const auto& line : whole) {
    require(line.find('\n') == std::string::npos);
    require(line.size() <= server::kLongestLine);
    static_cast<void>(server::parse_control_line(line));
  }
  static_cast<void>(server::parse_control_line(bytes));
  return 0;
}
