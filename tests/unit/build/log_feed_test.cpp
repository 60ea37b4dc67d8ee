#include <nixbuild/build/log_feed.hpp>

#include <catch2/catch.hpp>

#include <string>

namespace log_feed_test {

using namespace nixbuild;

TEST_CASE("log feed: a follower from the start gets every byte in order", "[build]") {
  build::LogFeed feed;
  std::string sent;
  std::string got;
  for (int i = 0; i < 3000; ++i) {
    const std::string line = "line " + std::to_string(i) + "\n";
    sent += line;
    feed.append(bytes_of(line));
    const auto piece = feed.read(got.size());
    REQUIRE_FALSE(piece.missed);
    got += piece.bytes;
  }
  CHECK_FALSE(feed.read(got.size()).closed);
  feed.close();
  CHECK(feed.read(got.size()).closed);
  CHECK(got == sent);
}

TEST_CASE("log feed: memory stays bounded and what fell out is said to be missed", "[build]") {
  build::LogFeed feed;
  const std::string block(64 * 1024, 'x');
  for (int i = 0; i < 100; ++i) {
    feed.append(bytes_of(block));
  }
  CHECK(feed.size() == 100 * block.size());
  CHECK(feed.read(0).missed);
  const auto newest = feed.read(feed.size() - 1000);
  CHECK_FALSE(newest.missed);
  CHECK(newest.bytes.size() == 1000);
}

} // namespace log_feed_test
