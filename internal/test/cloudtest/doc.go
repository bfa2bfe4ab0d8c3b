// Package cloudtest tests implementations of the ports of package bastion.
//
// [Store], [Groups], [Tasks], [Leases] and [Items] are conformance suites. They run
// against the cloud in memory and against the real services or their emulators.
// Reads of groups and tasks can be stale, so the suites repeat them until they return
// what is expected, or until the harness's patience is over.
//
// [Wrap] puts a [Hook] between a service and its ports. Hooks make a chosen call
// fail before or after its effect, hang or pause, and record the calls; [At] chooses
// the call.
//
// The tests of this package generate thousands of fault cases: each call of each
// operation fails in each way, or is held while another operation runs. By default a
// fixed tenth of them runs, and one of four days with random faults; with
// BASTION_FAULTS=all in the environment all of them run.
package cloudtest
