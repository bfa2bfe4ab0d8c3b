// Package bastion is the domain: the record of a bastion, and the function that
// makes the cloud agree with the record.
//
// A request never changes the cloud directly. It writes intent (open or closed,
// the source, the keys, the deadline) into a [Record] and then calls
// [Service.Converge]. Converge works in rounds. Each round reads the record and
// the cloud, calls the pure function [Decide], saves the record that Decide
// returns, and takes the actions that its caller may take. Converge ends with a
// round that has no action to take. Create, extend, close, the reaper and the
// observer all call Converge. A crash at any point leaves a record that is due;
// the reaper completes the change or undoes it.
//
// The package imports the standard library only. It reaches the cloud through the
// interfaces in ports.go. Their comments are the contract, and every adapter
// passes the same conformance suite.
package bastion
