// A SLAM back end's corrected poses of frames that were sent earlier, by seq; any process may.
//   correct_poses tcp://127.0.0.1:5555 SESSION REVISION < POSES.txt      (a line: seq m00 ... m33)
#include <iostream>

#include "wire.hpp"

int correct(const std::string& address, const std::string& session, const std::string& revision) {
    Poses poses{std::stoll(revision), {}};  // revision: above that of every correction before
    for (int64_t seq; std::cin >> seq;) {
        Pose pose{};
        for (double& value : pose) std::cin >> value;
        if (!std::cin) throw std::runtime_error("a line is: seq and 16 numbers");
        poses.poses.emplace_back(seq, pose);
    }
    if (!std::cin.eof()) throw std::runtime_error("a line is: seq and 16 numbers");
    Connection daemon(address);
    daemon.say("HELLO", Hello{{1, 0}, session, "cpp-slam", "poses", "opencv", {}});
    daemon.hear();
    daemon.say("POSES", poses);
    Answer answer = daemon.hear();
    while (answer.kind != "POSES_ACK") answer = daemon.hear();
    std::cout << answer.moved << " chunks moved, " << answer.unknown.size() << " seqs unknown\n";
    daemon.say("BYE", Nothing{});
    return 0;
}

int main(int count, char** words) try {
    if (count != 4) throw std::runtime_error("usage: correct_poses ADDRESS SESSION REVISION");
    return correct(words[1], words[2], words[3]);
} catch (const std::exception& error) {
    std::cerr << "correct_poses " << (count > 1 ? words[1] : "") << ": " << error.what() << '\n';
    return 2;
}
