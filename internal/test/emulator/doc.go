// Package referee starts the programs that judge our work, as scripts/emulators
// installs them: DynamoDB Local, moto, and Lambda's Runtime Interface Emulator. Each
// is the test's own, listens on loopback, and ends with the test. It also has the
// template as SAM transforms it.
package emulator
