"""The images a stack serves where no public registry answers: built in Python, same bytes every time.

May import: kit.
May touch: its store and cache folders, apt-get, dpkg-deb and pip (downloads only), one loopback port.
Must not: install a package, start a daemon of one, or push anything anywhere.
"""
