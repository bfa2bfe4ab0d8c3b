// Package cloudtest tests implementations of the ports of package bastion.
//
// [Store], [Groups], [Tasks], [Leases] and [Items] are conformance suites. They run
// against the cloud in memory and against the real services or their emulators.
// Reads of groups and tasks can be stale, so the suites read again until they see
// what they expect or the harness's patience is over.
//
// [Wrap] puts a [Hook] between a service and its ports. Hooks make a chosen call
// fail before or after its effect, hang or pause, and record the calls; [At] chooses
// the call. A test by reflection checks that every call goes through the hook.
//
// The tests of this package generate thousands of fault cases: each call of each
// operation fails in each way, or is overtaken by another request. Without further
// settings a tenth of them runs, always the same one; with BASTION_FAULTS=all in the
// environment all of them run.
package cloudtest
