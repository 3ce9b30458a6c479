package pgclient

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// System is a family of operating systems that install packages the same way.
type System string

// The families that the hints know.
const (
	Debian  System = "debian"  // apt-get: Debian, Ubuntu and what derives from them
	RedHat  System = "redhat"  // dnf: Red Hat, Fedora, Rocky, Alma
	Mac     System = "mac"     // brew
	Unknown System = "unknown" // everything else
)

// ThisSystem returns the family of the machine: by /etc/os-release on Linux,
// else by the package manager that is there.
func ThisSystem() System {
	if runtime.GOOS == "darwin" {
		return Mac
	}
	if system := parseOSRelease(readOSRelease()); system != Unknown {
		return system
	}
	for program, system := range map[string]System{"apt-get": Debian, "dnf": RedHat} {
		if _, err := exec.LookPath(program); err == nil {
			return system
		}
	}
	return Unknown
}

func readOSRelease() string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if text, err := os.ReadFile(path); err == nil {
			return string(text)
		}
	}
	return ""
}

// parseOSRelease reads ID and ID_LIKE, see os-release(5).
func parseOSRelease(text string) System {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name != "ID" && name != "ID_LIKE" {
			continue
		}
		for _, id := range strings.Fields(strings.Trim(value, `"'`)) {
			switch id {
			case "debian", "ubuntu":
				return Debian
			case "rhel", "fedora", "centos":
				return RedHat
			}
		}
	}
	return Unknown
}

// InstallCommand returns the command that installs a package on this machine,
// given its name for apt-get, dnf and brew.
func InstallCommand(apt, dnf, brew string) string {
	return ThisSystem().installCommand(apt, dnf, brew)
}

func (s System) installCommand(apt, dnf, brew string) string {
	switch s {
	case Debian:
		return "apt-get install -y " + apt
	case RedHat:
		return "dnf install -y " + dnf
	case Mac:
		return "brew install " + brew
	default:
		return "install the package " + apt + " (Debian's name for it)"
	}
}
